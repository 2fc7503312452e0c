// Opens the dashboard over the made-up edge in headless Chromium: it must load under its policy, show live numbers, work by
// keyboard and on a phone, and log no error. `--shots FOLDER` leaves screenshots.
import assert from "node:assert";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chromium } from "playwright-core";

const example = new URL("../../target/debug/examples/dashboard", import.meta.url).pathname;
const shots = process.argv.includes("--shots") ? process.argv[process.argv.indexOf("--shots") + 1] : null;
const edge = spawn(example, ["127.0.0.1:0", "10000"], { stdio: ["ignore", "pipe", "inherit"] });
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: quiet });
const errors = [];

async function open(url, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => request.url().startsWith(url) || request.url().startsWith("data:") || errors.push("outside: " + request.url()));
  await page.goto(url);
  return page;
}

const shoot = (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
const text = (page, selector) => page.textContent(selector);

async function overview(page) {
  await page.waitForFunction(() => /\d+ sites/.test(document.getElementById("facts").textContent));
  await page.waitForFunction(() => document.querySelectorAll("figure path.series[d^='M'][d*='L']").length >= 8, null, { timeout: 15000 });
  const before = await text(page, "#tiles");
  await page.waitForFunction((old) => document.getElementById("tiles").textContent !== old, before, { timeout: 10000 });
  assert.equal(await page.locator("figure").count(), 8);
  await page.waitForFunction(() => document.querySelector(".alarm.warning h2")?.textContent.includes("certificate-expiring"));
  await page.focus(".plot");
  await page.keyboard.press("ArrowLeft");
  assert.match(await text(page, "figure:first-child figcaption"), /\d:\d\d/, "arrow keys show a moment");
  await shoot(page, "overview");
}

async function tables(page) {
  await page.focus("#tab-overview");
  await page.keyboard.press("ArrowRight");
  await page.waitForSelector("#site-table tbody b");
  assert.match(await text(page, "#site-count"), /of 10000/);
  await page.fill("#site-text", "site-00042.example");
  await page.waitForFunction(() => document.getElementById("site-count").textContent === "1–1 of 1");
  await page.fill("#site-text", "");
  await page.click("#sort-site");
  await page.waitForFunction(() => document.querySelector("#site-table tbody b").textContent === "site-00000");
  await page.click("#site-next");
  await page.waitForFunction(() => document.querySelector("#site-table tbody b").textContent === "site-00050");
  await shoot(page, "sites");
  await page.click("#tab-certificates");
  await page.waitForFunction(() => document.querySelectorAll("#certificate-table tbody tr").length === 43);
  await page.click("#tab-findings");
  await page.click("#finding-list summary");
  assert.match(await text(page, "#finding-list pre"), /<script>alert/, "markup from outside is text");
  await shoot(page, "findings");
  await page.click("#tab-reloads");
  await page.click("#reload");
  await page.waitForFunction(() => document.getElementById("reload-result").textContent === "applied");
}

async function phone(url) {
  const page = await open(url, { viewport: { width: 390, height: 844 }, colorScheme: "dark", isMobile: true, hasTouch: true });
  await page.waitForSelector("#tiles dd");
  for (const view of ["overview", "sites", "certificates", "findings", "reloads"]) {
    await page.evaluate((hash) => (location.hash = hash), view);
    await page.waitForTimeout(600);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 390, `${view} is ${width} wide`);
    await shoot(page, "phone-" + view);
  }
}

try {
  const [line] = await once(edge.stdout, "data");
  const url = line.toString().trim();
  const page = await open(url, { viewport: { width: 1280, height: 1000 } });
  await overview(page);
  await tables(page);
  await phone(url);
  assert.deepEqual(errors, []);
  edge.kill();
  await page.waitForFunction(() => document.getElementById("health").className === "badge lost", null, { timeout: 10000 });
  console.log("the dashboard works");
} finally {
  edge.kill();
  await browser.close();
}
