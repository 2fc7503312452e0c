// A browser without a screen, driven over Chromium's DevTools pipe: what the tests need of it, and no package.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--no-proxy-server",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"];
const keys = { ArrowLeft: 37, ArrowRight: 39, Enter: 13, Tab: 9 };

export class Browser {
  #process; #home; #ended; #next = 1; #waiting = new Map(); #pages = new Map();

  constructor(executable = process.env.CHROMIUM || "chromium") {
    this.#home = mkdtempSync(join(tmpdir(), "sluss-browser-"));
    this.#process = spawn(executable, [...flags, `--user-data-dir=${this.#home}`], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    const output = this.#process.stdio[4].setEncoding("utf8");
    let rest = "";
    output.on("data", (chunk) => {
      const messages = (rest + chunk).split("\0");
      rest = messages.pop();
      messages.forEach((message) => this.#receive(JSON.parse(message)));
    });
    this.#process.stdio[3].on("error", () => {});
    this.#ended = new Promise((resolve) => this.#process.on("exit", resolve));
    this.#ended.then(() => this.#waiting.forEach(({ reject }) => reject(new Error("the browser has ended"))));
  }

  #receive({ id, result, error, method, params, sessionId }) {
    if (!id) return this.#pages.get(sessionId)?.told(method, params);
    const { resolve, reject } = this.#waiting.get(id);
    this.#waiting.delete(id);
    error ? reject(new Error(error.message)) : resolve(result);
  }

  send(method, params = {}, sessionId) {
    const id = this.#next++;
    this.#process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  // A page of its own, with nothing of the others'. What goes wrong on it is pushed into `errors`.
  async open(url, { width, height, phone = false, dark = false }, errors) {
    const { browserContextId } = await this.send("Target.createBrowserContext");
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page((method, params) => this.send(method, params, sessionId), url, errors);
    this.#pages.set(sessionId, page);
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.send(domain + ".enable");
    await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: phone });
    await page.send("Emulation.setTouchEmulationEnabled", { enabled: phone });
    await page.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }] });
    await page.send("Page.navigate", { url });
    await page.until(() => document.readyState === "complete");
    return page;
  }

  // Asked, the browser ends its helpers before itself; killed, it leaves them writing into a folder that is being removed.
  async close() {
    this.send("Browser.close").catch(() => {});
    const late = globalThis.setTimeout(() => this.#process.kill("SIGKILL"), 20_000);
    await this.#ended;
    globalThis.clearTimeout(late);
    for (const end = Date.now() + 20_000; ; await sleep(50)) {
      try {
        return rmSync(this.#home, { recursive: true, force: true });
      } catch (error) {
        if (Date.now() > end) return console.error(`left behind: ${this.#home} (${error.code})`);
      }
    }
  }
}

class Page {
  constructor(send, url, errors) {
    Object.assign(this, { send, url, errors });
  }

  told(method, params) {
    if (method === "Runtime.exceptionThrown") this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === "Runtime.consoleAPICalled" && ["error", "warning"].includes(params.type)) this.errors.push(params.args.map((one) => one.value).join(" "));
    if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) this.errors.push(params.entry.text);
    if (method === "Network.requestWillBeSent" && !params.request.url.startsWith(this.url) && !params.request.url.startsWith("data:")) this.errors.push("outside: " + params.request.url);
  }

  async evaluate(what, argument) {
    const expression = `(${what})(${JSON.stringify(argument) ?? ""})`;
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${what}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  // Waits until it is so; the bound is there so that a hanging test ends.
  async until(condition, argument) {
    for (const end = Date.now() + 60_000; ; await sleep(50)) {
      const value = await this.evaluate(condition, argument).catch((error) => error);
      if (value && !(value instanceof Error)) return value;
      if (Date.now() > end) throw new Error(`never: ${condition} ${value}`);
    }
  }

  text(selector) {
    return this.evaluate((selector) => document.querySelector(selector).textContent, selector);
  }

  focus(selector) {
    return this.evaluate((selector) => document.querySelector(selector).focus(), selector);
  }

  async press(key) {
    const event = { key, code: key, windowsVirtualKeyCode: keys[key] };
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  async fill(selector, text) {
    await this.evaluate((selector) => document.querySelector(selector).select(), selector);
    await this.evaluate((selector) => document.querySelector(selector).focus(), selector);
    if (text) return this.send("Input.insertText", { text });
    return this.evaluate(() => document.execCommand("delete"));
  }

  async click(selector) {
    const at = await this.until((selector) => {
      const element = document.querySelector(selector);
      element.scrollIntoView({ block: "center" });
      const { x, y, width, height } = element.getBoundingClientRect();
      return width && { x: x + width / 2, y: y + height / 2 };
    }, selector);
    for (const type of ["mousePressed", "mouseReleased"]) await this.send("Input.dispatchMouseEvent", { type, ...at, button: "left", clickCount: 1 });
  }

  async shoot(file) {
    const { cssContentSize } = await this.send("Page.getLayoutMetrics");
    const clip = { ...cssContentSize, scale: 1 };
    const { data } = await this.send("Page.captureScreenshot", { captureBeyondViewport: true, clip });
    writeFileSync(file, data, "base64");
  }
}
