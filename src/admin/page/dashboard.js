// The dashboard: polls the API and fills the page. Text from the API becomes text nodes, never markup.

const byId = (id) => document.getElementById(id);
const state = { points: [], status: null, tab: null, sites: { sort: "requests_per_second", order: "desc", from: 0 }, open: new Set() };
const PAGE = 50;

// Numbers for people.

function count(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return (value / 1e6).toFixed(value >= 1e7 ? 0 : 1) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(value >= 1e5 ? 0 : 1) + " k";
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toString();
  return value.toFixed(value >= 10 ? 1 : 2);
}

function milliseconds(value) {
  if (!value) return value === 0 ? "0 ms" : "–";
  if (value >= 1000) return (value / 1000).toFixed(value >= 10000 ? 0 : 1) + " s";
  return (value >= 10 ? value.toFixed(0) : value >= 0.995 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(2).replace(/0$/, "")) + " ms";
}

const seconds = (value) => milliseconds(value * 1000);

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return value.toFixed(at && value < 100 ? 1 : 0) + " " + units[at];
}

function age(unix) {
  const value = Math.max(0, (state.status ? state.status.now_unix : Date.now() / 1000) - unix);
  if (value < 120) return Math.round(value) + " s";
  if (value < 7200) return Math.round(value / 60) + " min";
  if (value < 172800) return Math.round(value / 3600) + " h";
  return Math.round(value / 86400) + " d";
}

const moment = (unix) => new Date(unix * 1000).toLocaleString();

// Tables: columns are { name, number, of: row => text or node }.

function fill(table, columns, rows, empty) {
  const cell = (tag, column, content) => make(tag, { class: column.number ? "number" : null }, content);
  const head = make("tr", {}, ...columns.map((column) => {
    const th = cell("th", column, column.head || column.name);
    th.setAttribute("scope", "col");
    if (column.sorted) th.setAttribute("aria-sort", column.sorted);
    return th;
  }));
  const body = rows.map((row) => make("tr", {}, ...columns.map((column) => cell("td", column, column.of(row)))));
  if (!rows.length) body.push(make("tr", {}, make("td", { class: "empty", colspan: columns.length }, empty)));
  const focused = table.contains(document.activeElement) ? document.activeElement.id : "";
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  if (focused && byId(focused)) byId(focused).focus();
}

const mark = (kind, text) => make("span", { class: "mark " + kind }, text);

async function fetchJson(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (!response.ok && response.status !== 409) throw new Error(response.status + " " + (await response.text()).trim());
  return response.json();
}

// The overview.

const pair = (name, at) => (point) => point[name][at];
const charts = [
  { title: "New connections a second", format: count, floor: 10, series: [
    { label: "accepted", colour: "black", of: (p) => p.accepted },
    { label: "full handshakes", colour: "blue", of: (p) => p.full },
    { label: "resumed", colour: "green", of: (p) => p.resumed },
    { label: "failed", colour: "purple", of: (p) => p.failed },
    { label: "refused", colour: "red", of: (p) => p.refused } ] },
  { title: "Requests a second", format: count, floor: 10, series: [
    { label: "answered", colour: "blue", of: (p) => p.requests },
    { label: "with 5xx", colour: "red", of: (p) => p.errors } ] },
  { title: "Request latency", format: milliseconds, floor: 10, logarithmic: 0.1, series: [
    { label: "half below", colour: "green", of: (p) => p.latency && p.latency[0] },
    { label: "90 % below", colour: "orange", of: (p) => p.latency && p.latency[1] },
    { label: "99 % below", colour: "purple", of: (p) => p.latency && p.latency[2] } ] },
  { title: "Handshake queue", format: count, floor: 10, series: [
    { label: "waiting", colour: "blue", of: pair("handshake_queue", 0) },
    { label: "limit", colour: "red", of: pair("handshake_queue", 1) } ] },
  { title: "Request queue, fullest site", format: count, floor: 10, series: [
    { label: "waiting", colour: "blue", of: pair("request_queue", 0) },
    { label: "limit", colour: "red", of: pair("request_queue", 1) } ] },
  { title: "Oldest waiting", format: seconds, floor: 0.1, series: [
    { label: "handshake", colour: "blue", of: pair("oldest", 0) },
    { label: "request", colour: "orange", of: pair("oldest", 1) } ] },
  { title: "Kernel accept queue", format: count, floor: 10, series: [
    { label: "waiting", colour: "blue", of: pair("accept_queue", 0) },
    { label: "limit", colour: "red", of: pair("accept_queue", 1) } ] },
  { title: "Turned away a second, by whose doing", format: count, floor: 1, series: [
    { label: "our bounds", colour: "red", of: (p) => bySide(p, "edge") },
    { label: "site servers", colour: "orange", of: (p) => bySide(p, "upstream") },
    { label: "clients", colour: "blue", of: (p) => bySide(p, "downstream") } ] },
];

const sides = {};
const bySide = (point, side) => Object.entries(point.refusals).reduce((sum, [reason, rate]) => sum + (sides[reason] === side ? rate : 0), 0);

function showStatus(status) {
  const degraded = status.health !== "ok";
  const health = byId("health");
  const critical = status.alarms.some((alarm) => alarm.urgency === "critical");
  health.className = "badge " + (critical ? "critical" : degraded ? "degraded" : "ok");
  health.textContent = (degraded ? (critical ? "✖ " : "⚠ ") + status.alarms.length + (status.alarms.length === 1 ? " alarm" : " alarms") : "✓ well") + (status.phase === "serving" ? "" : ", " + status.phase);
  document.title = (degraded ? "⚠ " : "") + "sluss";
  byId("facts").textContent = "version " + status.version + " · up " + age(status.started_unix) + " · generation " + status.generation + " · " + status.sites + " sites · " + status.certificates + " certificates";
  showAlarms(status.alarms);
  if (state.tab !== "overview") return;
  showTiles(status);
  for (const chart of state.charts) chart.update(state.points, status.now_unix);
  fill(byId("latencies"), [
    { name: "what", of: (r) => r.what.replace("-", " ") },
    { name: "a second", number: true, of: (r) => count(r.per_second) },
    { name: "half below", number: true, of: (r) => (r.per_second ? milliseconds(r.p50_ms) : "–") },
    { name: "90 % below", number: true, of: (r) => (r.per_second ? milliseconds(r.p90_ms) : "–") },
    { name: "99 % below", number: true, of: (r) => (r.per_second ? milliseconds(r.p99_ms) : "–") } ], status.latencies, "nothing yet");
  fill(byId("queues"), [
    { name: "queue", of: (r) => r.queue },
    { name: "site", of: (r) => r.site || "all" },
    { name: "waiting", number: true, of: (r) => count(r.depth) },
    { name: "limit", number: true, of: (r) => count(r.limit) },
    { name: "oldest", number: true, of: (r) => seconds(r.oldest_seconds) } ], status.queues.filter((r) => r.depth > 0), "nothing waits");
  fill(byId("refusals"), [
    { name: "reason", of: (r) => r.reason },
    { name: "by", of: (r) => ({ edge: "our bound", upstream: "site server", downstream: "client" })[r.side] },
    { name: "a second", number: true, of: (r) => count(r.per_second) },
    { name: "in all", number: true, of: (r) => count(r.total) } ], status.refusals, "nothing was turned away");
  fill(byId("listeners"), [
    { name: "address", of: (r) => r.listener },
    { name: "waiting in the kernel", number: true, of: (r) => count(r.length) },
    { name: "limit", number: true, of: (r) => count(r.limit) } ], status.listeners, "none");
}

const TITLES = {
  "accept-queue": "Connections wait in the kernel", "accept-overflow": "The kernel drops connections",
  "queue-age": "Visitors wait too long", "queue-stalled": "Nothing moves",
  "handshakes-refused": "Handshakes are refused", "requests-refused": "Requests are refused",
  "upstreams-down": "A site's servers are down", "certificate-kept": "A certificate's files are broken",
  "certificate-expiring": "A certificate ends within three weeks",
  "certificate-ends-soon": "A certificate ends within days", "certificate-expired": "A certificate has expired",
  "reload-refused": "The last reload was refused", "reload-partly": "The last reload left parts as they were",
  "not-served": "A part of the configuration is not served",
  "machine-differs": "The queues were sized on another machine", "connections": "Connections are near their bound",
  "descriptors": "File descriptors are near their bound", "memory": "Memory is near its bound",
  "access-log": "The access log loses lines",
};

// An alarm stands on for a while after its cause is gone.
function lastSeen(alarm) {
  return state.status && state.status.now_unix - alarm.seen_unix >= 3 ? ", last seen " + age(alarm.seen_unix) + " ago" : "";
}

// One card an alarm, whatever the number of its subjects.
function showAlarms(alarms) {
  const key = JSON.stringify(alarms) + Math.floor(Date.now() / 10000);
  if (state.alarms === key) return;
  state.alarms = key;
  const kinds = new Map();
  for (const alarm of alarms) kinds.set(alarm.alarm, [...(kinds.get(alarm.alarm) || []), alarm]);
  const wide = matchMedia("(min-width: 40rem)").matches && kinds.size <= 2;
  byId("alarms").replaceChildren(...[...kinds.values()].map((all) => {
    const first = all[0];
    const line = (alarm) => make("p", {}, alarm.subject ? make("b", {}, alarm.subject + ": ") : null, alarm.detail + " (for " + age(alarm.since_unix) + lastSeen(alarm) + ")");
    const open = "alarm-" + first.alarm;
    const details = make("details", { open: state.open.has(open) || ((wide || first.urgency === "critical") && !state.open.has("not-" + open)) },
      make("summary", {}, "What it means and what to do" + (all.length > 3 ? "; " + (all.length - 3) + " more" : "")),
      ...all.slice(3).map(line),
      make("p", {}, make("b", {}, "Visitors: "), first.meaning + "."), make("p", {}, make("b", {}, "What to do: "), first.remedy + "."));
    details.firstChild.addEventListener("click", () => {
      state.open.delete(details.open ? open : "not-" + open);
      state.open.add(details.open ? "not-" + open : open);
    });
    return make("article", { class: "alarm " + first.urgency }, make("h2", {}, (first.urgency === "critical" ? "✖ " : "⚠ ") + (TITLES[first.alarm] || first.alarm), make("small", {}, first.alarm)), ...all.slice(0, 3).map(line), details);
  }));
}

function showTiles(status) {
  const rates = status.rates;
  const open = Object.values(status.connections).reduce((sum, one) => sum + one, 0);
  const tiles = [
    ["Connections", count(open), count(status.connections.active || 0) + " active"],
    ["Requests a second", count(rates.requests || 0), count(rates.server_errors || 0) + " with 5xx"],
    ["Handshakes a second", count(rates.handshakes_ok || 0), count(rates.handshakes_resumed || 0) + " resumed"],
    ["Handshakes refused", count(rates.handshakes_refused || 0), "a second"],
    ["Endpoints", count(status.endpoints_up) + " up", status.endpoints_down ? "⚠ " + status.endpoints_down + " down" : "none down"],
    ["Sent", bytes(rates.sent_bytes || 0), "a second"],
    ["Memory", bytes(status.process.resident_bytes), status.process.memory_limit_bytes ? "of " + bytes(status.process.memory_limit_bytes) : ""],
    ["CPU", status.process.cpu_cores.toFixed(2), "cores"],
    ["Descriptors", count(status.process.descriptors), "of " + count(status.process.descriptors_max)],
    ["Access log", status.access_log.failure ? "✖ fails" : status.access_log.dropped ? "⚠ " + count(status.access_log.dropped) + " lost" : "✓", count(status.access_log.written) + " lines"],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value, more]) => make("div", {}, make("dt", {}, name), make("dd", {}, value + " ", make("small", {}, more)))));
}

// Sites: searched, sorted and cut by the edge, so that 50,000 are as quick as ten.

const endpointMark = (endpoint) => (endpoint.state === "up" ? mark("good", "✓ up") : mark("bad", "✖ " + endpoint.state));

const siteColumns = [
  { key: "site", name: "site", of: siteCell },
  { key: "requests_per_second", name: "requests/s", number: true, of: (r) => count(r.requests_per_second) },
  { key: "p50_ms", name: "half below", number: true, of: (r) => milliseconds(r.p50_ms) },
  { key: "p99_ms", name: "99 % below", number: true, of: (r) => milliseconds(r.p99_ms) },
  { key: "server_errors", name: "5xx", number: true, of: (r) => count(r.server_errors) },
  { key: "refused", name: "refused", number: true, of: (r) => count(r.refused) },
  { key: "waiting", name: "waiting", number: true, of: (r) => count(r.waiting) + " / " + count(r.waiting_limit) },
  { key: "oldest_seconds", name: "oldest", number: true, of: (r) => (r.waiting ? seconds(r.oldest_seconds) : "–") },
  { key: "in_flight", name: "in flight", number: true, of: (r) => count(r.in_flight) + " / " + count(r.in_flight_limit) },
  { key: "findings", name: "findings", number: true, of: (r) => count(r.findings) },
  { key: "endpoints", name: "endpoints", of: endpointSummary },
];

function siteCell(row) {
  const hosts = row.hosts.slice(0, 3).join(", ") + (row.hosts.length > 3 ? " and " + (row.hosts.length - 3) + " more" : "");
  return make("div", {}, make("b", {}, row.site), row.kept ? mark("warn", "⚠ last good file") : null, make("div", { class: "more hosts" }, hosts));
}

function endpointSummary(row) {
  const down = row.endpoints.filter((endpoint) => endpoint.state !== "up").length;
  const head = down ? mark("bad", "✖ " + down + " of " + row.endpoints.length + " down") : mark("good", "✓ " + row.endpoints.length + " up");
  const list = row.endpoints.map((endpoint) => make("div", { class: "more" }, endpointMark(endpoint), " " + endpoint.url + (endpoint.backup ? " (backup)" : "") + ", " + endpoint.in_flight + " in flight, " + (endpoint.latency_ms === null ? "no answer yet" : milliseconds(endpoint.latency_ms)) + (endpoint.last_failure ? "; last failure: " + endpoint.last_failure : "")));
  const details = make("details", { open: state.open.has(row.site) }, make("summary", { id: "endpoints-" + row.site }, head), ...list);
  details.addEventListener("toggle", () => (details.open ? state.open.add(row.site) : state.open.delete(row.site)));
  return details;
}

async function showSites() {
  const { sort, order, from } = state.sites;
  const query = new URLSearchParams({ q: byId("site-text").value, sort, order, from, limit: PAGE });
  if (byId("site-troubled").checked) query.set("troubled", "1");
  const page = await fetchJson("/api/sites?" + query);
  const columns = siteColumns.map((column) => {
    const sorted = sort === column.key ? (order === "asc" ? "ascending" : "descending") : null;
    const button = make("button", { type: "button", id: "sort-" + column.key }, column.name + (sorted ? (order === "asc" ? " ▲" : " ▼") : ""));
    button.addEventListener("click", () => {
      const flip = sort === column.key ? order === "desc" : column.key === "site";
      Object.assign(state.sites, { sort: column.key, order: flip ? "asc" : "desc", from: 0 });
      refresh();
    });
    return { ...column, head: button, sorted };
  });
  fill(byId("site-table"), columns, page.sites, "no site meets the search");
  const last = Math.min(from + PAGE, page.total);
  byId("site-count").textContent = page.total ? from + 1 + "–" + last + " of " + page.total : "none";
  byId("site-previous").disabled = from === 0;
  byId("site-next").disabled = last >= page.total;
}

// Certificates, findings, reloads.

const VALIDITY = { valid: ["good", "✓ valid"], expiring: ["warn", "⚠ expiring"], urgent: ["bad", "⚠ urgent"], expired: ["bad", "✖ expired"], not_yet_valid: ["bad", "✖ not yet valid"], absent: ["bad", "✖ not served"] };

async function showCertificates() {
  const all = await fetchJson("/api/certificates");
  const text = byId("certificate-text").value.toLowerCase();
  const rows = all.filter((r) => !text || r.name.toLowerCase().includes(text) || r.hosts.some((host) => host.includes(text)));
  byId("certificate-count").textContent = rows.length + " of " + all.length + (rows.length > 500 ? ", the first 500 shown" : "");
  fill(byId("certificate-table"), [
    { name: "name", of: (r) => make("b", {}, r.name) },
    { name: "state", of: (r) => make("div", {}, mark(...(VALIDITY[r.validity] || ["warn", r.validity])), r.kept_since ? mark("warn", "⚠ last good version") : null) },
    { name: "expires", of: (r) => r.not_after && r.not_after.slice(0, 10) + " (" + r.days_left + " d)" },
    { name: "key", of: (r) => r.key },
    { name: "issuer", of: (r) => r.issuer },
    { name: "hosts", of: (r) => make("div", { class: "hosts" }, r.hosts.slice(0, 8).join(", ") + (r.hosts.length > 8 ? " and " + (r.hosts.length - 8) + " more" : "")) },
    { name: "problems", of: (r) => make("div", {}, ...r.problems.map((problem) => make("div", { class: "more" }, problem.what + "; " + problem.remedy))) } ], rows.slice(0, 500), "none");
}

async function showFindings() {
  const all = await fetchJson("/api/findings");
  const text = byId("finding-text").value.toLowerCase();
  const rows = all.filter((r) => !text || r.site.toLowerCase().includes(text) || r.rule.includes(text));
  byId("finding-count").textContent = rows.length + " of " + all.length + (rows.length > 200 ? ", the first 200 shown" : "");
  const kinds = { note: "good", repair: "warn", refuse: "bad" };
  byId("finding-list").replaceChildren(...rows.slice(0, 200).map((row) => {
    const key = [row.site, row.direction, row.rule, row.action].join(" ");
    const examples = row.examples.map((example) => make("pre", {}, moment(example.last_seen_unix) + (example.times > 1 ? " (" + count(example.times) + " times)" : "") + "  " + example.request_line + "\n" + (example.field ? example.field + ": " : "") + example.excerpt + (example.upstream ? "\nfrom " + example.upstream : "") + (example.request_id ? "\nrequest " + example.request_id : "")));
    const details = make("details", { open: state.open.has(key) },
      make("summary", {}, make("b", {}, row.site || "(no site)"), " " + row.direction + " · " + row.rule + " ", mark(kinds[row.action] || "warn", row.action), " " + count(row.count) + (row.count === 1 ? " time" : " times"), row.shadow_refused ? mark("warn", "shadow profile: " + count(row.shadow_refused) + " refused") : null, row.action === "refuse" ? null : make("span", { class: "more" }, " · the profile reject refuses such messages")),
      make("p", {}, row.explain + (row.section ? " (" + row.section + ")" : "")), make("p", {}, make("b", {}, "What to do: "), row.remedy), ...examples);
    details.addEventListener("toggle", () => (details.open ? state.open.add(key) : state.open.delete(key)));
    return details;
  }));
  if (!rows.length) byId("finding-list").append(make("p", {}, "No odd head was seen."));
}

function reportOf(report) {
  const kinds = { applied: "good", partly: "warn", refused: "bad" };
  const changes = [];
  for (const [what, difference] of Object.entries(report.changes || {})) {
    for (const [how, names] of Object.entries(difference)) {
      if (names.length) changes.push(what + " " + how + ": " + names.slice(0, 20).join(", ") + (names.length > 20 ? " and " + (names.length - 20) + " more" : ""));
    }
  }
  const problems = report.problems.map((problem) => ({ part: "error in one part", fatal: "error" }[problem.severity] || problem.severity) + ": " + problem.file + (problem.line ? ":" + problem.line : "") + (problem.key ? ": " + problem.key : "") + ": " + problem.what + (problem.remedy ? "; " + problem.remedy : ""));
  const kept = report.kept.map((part) => "kept at its last good version: " + part);
  const when = report.at_unix ? moment(report.at_unix) : "now";
  return make("details", { open: true }, make("summary", {}, make("b", {}, when), mark(kinds[report.result] || "warn", report.result), " generation " + report.generation + " in " + seconds(report.seconds)),
    make("pre", {}, [...changes, ...kept, ...problems].join("\n") || "nothing changed"));
}

async function showReloads() {
  const last = await fetchJson("/api/reload");
  const reports = last.result ? [last, ...(last.earlier || [])] : [];
  byId("reload-list").replaceChildren(...reports.map(reportOf));
  if (!reports.length) byId("reload-list").append(make("p", {}, "Nothing was reloaded since the start."));
}

byId("reload").addEventListener("click", async () => {
  byId("reload").disabled = true;
  byId("reload-result").textContent = "reloading";
  try {
    const report = await fetchJson("/api/reload", { method: "POST" });
    byId("reload-result").textContent = report.result;
  } catch (error) {
    byId("reload-result").textContent = "failed: " + error.message;
  }
  byId("reload").disabled = false;
  refresh();
});

// Views and polling.

const views = { overview: null, sites: showSites, certificates: showCertificates, findings: showFindings, reloads: showReloads };

function select(tab) {
  state.tab = tab in views ? tab : "overview";
  for (const name of Object.keys(views)) {
    byId(name).hidden = name !== state.tab;
    byId("tab-" + name).setAttribute("aria-selected", name === state.tab);
    byId("tab-" + name).tabIndex = name === state.tab ? 0 : -1;
  }
  if (state.status) showStatus(state.status);
  refresh();
}

async function refresh() {
  const show = views[state.tab];
  if (!show) return;
  try {
    await show();
  } catch (error) {
    lost(error);
  }
}

function lost(error) {
  byId("health").className = "badge lost";
  byId("health").textContent = "✖ no answer from the edge: " + error.message;
}

async function poll() {
  const began = performance.now();
  try {
    const last = state.points.length ? state.points[state.points.length - 1].t : 0;
    const status = await fetchJson("/api/status?since=" + last);
    for (const row of status.refusals) sides[row.reason] = row.side;
    // A new process begins its charts anew.
    if (state.status && state.status.started_unix !== status.started_unix) state.points = [];
    state.points = [...state.points, ...(status.history || [])].filter((point) => point.t > status.now_unix - SPAN);
    state.status = status;
    showStatus(status);
  } catch (error) {
    lost(error);
  }
  setTimeout(poll, Math.max(200, 1000 - (performance.now() - began)));
}

for (const name of Object.keys(views)) {
  byId("tab-" + name).addEventListener("click", () => (location.hash = name));
  byId("tab-" + name).addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const names = Object.keys(views);
    const next = names[(names.indexOf(name) + step + names.length) % names.length];
    location.hash = next;
    byId("tab-" + next).focus();
  });
}
for (const id of ["site-text", "site-troubled", "certificate-text", "finding-text"]) {
  byId(id).addEventListener("input", () => {
    state.sites.from = 0;
    refresh();
  });
}
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
byId("site-previous").addEventListener("click", () => { state.sites.from = Math.max(0, state.sites.from - PAGE); refresh(); });
byId("site-next").addEventListener("click", () => { state.sites.from += PAGE; refresh(); });
byId("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});
addEventListener("hashchange", () => select(location.hash.slice(1)));
state.charts = charts.map((chart) => new Chart(byId("charts"), chart));
select(location.hash.slice(1) || "overview");
poll();
setInterval(() => { if (!document.hidden) refresh(); }, 5000);
