// Opens the dashboard over the made-up edge in headless Chromium: it must load under its policy, show live numbers, work by
// keyboard and on a phone, and log no error. `node dashboard.mjs EXAMPLE [FOLDER]`: the built example `dashboard`, and where
// screenshots are wanted. `node dashboard.mjs URL [FOLDER]`: over a real edge with one site. It says `under traffic` once it
// has seen requests; then the site's server must go, and the page must tell.
import assert from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { Browser } from "./driver.mjs";

const [example, shots] = process.argv.slice(2);
const real = example.startsWith("http://") && example;
const edge = real ? null : spawn(example, ["127.0.0.1:0", "10000"], { stdio: ["ignore", "pipe", "inherit"] });
const browser = new Browser();
const errors = [];
const shoot = (page, name) => shots && page.shoot(`${shots}/${name}.png`);
const first = (page, site) => page.until((site) => document.querySelector("#site-table tbody b")?.textContent === site, site);

async function overview(page) {
  await page.until(() => /\d+ sites/.test(document.getElementById("facts").textContent));
  await page.until(() => document.querySelectorAll("figure path.series[d^='M'][d*='L']").length >= 8);
  const before = await page.text("#tiles");
  await page.until((old) => document.getElementById("tiles").textContent !== old, before);
  assert.equal(await page.evaluate(() => document.querySelectorAll("figure").length), 8);
  await page.until(() => document.querySelector(".alarm.warning h2")?.textContent.includes("certificate-expiring"));
  await page.focus(".plot");
  await page.press("ArrowLeft");
  assert.match(await page.text("figure:first-child figcaption"), /\d:\d\d/, "arrow keys show a moment");
  await shoot(page, "overview");
}

async function tables(page) {
  await page.focus("#tab-overview");
  await page.press("ArrowRight");
  await page.until(() => document.querySelector("#site-table tbody b"));
  assert.match(await page.text("#site-count"), /of 10000/);
  await page.fill("#site-text", "site-00042.example");
  await page.until(() => document.getElementById("site-count").textContent === "1–1 of 1");
  await page.fill("#site-text", "");
  await page.click("#sort-site");
  await first(page, "site-00000");
  await page.click("#site-next");
  await first(page, "site-00050");
  await shoot(page, "sites");
  await page.click("#tab-certificates");
  await page.until(() => document.querySelectorAll("#certificate-table tbody tr").length === 43);
  await shoot(page, "certificates");
  await page.click("#tab-findings");
  await page.click("#finding-list summary");
  assert.match(await page.text("#finding-list pre"), /<script>alert/, "markup from outside is text");
  await shoot(page, "findings");
  await page.click("#tab-reloads");
  await page.click("#reload");
  await page.until(() => document.getElementById("reload-result").textContent === "applied");
  await shoot(page, "reloads");
}

async function phone(url) {
  const page = await browser.open(url, { width: 390, height: 844, phone: true, dark: true }, errors);
  await page.until(() => document.querySelector("#tiles dd"));
  for (const view of ["overview", "sites", "certificates", "findings", "reloads"]) {
    await page.evaluate((view) => (location.hash = view), view);
    await page.until((view) => document.getElementById("tab-" + view).getAttribute("aria-selected") === "true", view);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `${view} is ${width} wide`);
    await shoot(page, "phone-" + view);
  }
}

async function madeUp() {
  const [line] = await once(edge.stdout, "data");
  const url = line.toString().trim();
  const page = await browser.open(url, { width: 1280, height: 1000 }, errors);
  await overview(page);
  await tables(page);
  await phone(url);
  assert.deepEqual(errors, []);
  edge.kill();
  await page.until(() => document.getElementById("health").className === "badge lost");
}

// The tile's value begins with that number.
const tile = (page, name, least) => page.until(({ name, least }) => {
  const tiles = [...document.querySelectorAll("#tiles dt")];
  return parseFloat(tiles.find((tile) => tile.textContent === name).nextSibling.textContent) >= least;
}, { name, least });

async function underTraffic(url) {
  const page = await browser.open(url, { width: 1280, height: 1000 }, errors);
  await tile(page, "Requests a second", 0.1);
  await tile(page, "Endpoints", 1);
  console.log("under traffic");
  await page.until(() => document.querySelector(".alarm.critical h2")?.textContent.includes("upstreams-down"));
  await page.until(() => document.getElementById("tiles").textContent.includes("1 down"));
  await shoot(page, "down");
  await page.click("#tab-sites");
  await page.click("#site-troubled");
  await page.until(() => document.querySelector("#site-table tbody")?.textContent.includes("1 of 1 down"));
  assert.match(await page.text("#site-table tbody details"), /failing.*last failure/);
  await shoot(page, "troubled");
  assert.deepEqual(errors, []);
}

try {
  await (real ? underTraffic(real) : madeUp());
  console.log("the dashboard works");
} finally {
  edge?.kill();
  await browser.close();
}
