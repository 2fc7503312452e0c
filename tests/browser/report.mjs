// Opens a page written by `sluss load --html` or `sluss size --html` in headless Chromium: as a whole file of its own, on a
// desk and on a phone, by day and in a dark room. `node report.mjs FILE PLOTS [FOLDER]`: the page, how many plots it has at
// least, and where screenshots are wanted.
import assert from "node:assert";
import { pathToFileURL } from "node:url";
import { Browser } from "./driver.mjs";

const [file, count, shots] = process.argv.slice(2);
const plots = Number(count);
assert.ok(plots > 0, "node report.mjs FILE PLOTS [FOLDER]");
const url = pathToFileURL(file).href;
const browser = new Browser();
const errors = [];

// Relative luminance and contrast as WCAG 2.2 defines them.
function luminance([red, green, blue]) {
  const part = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

async function look(name, screen) {
  const page = await browser.open(url, screen, errors);
  const seen = await page.evaluate(() => {
    const colour = (element, key) => getComputedStyle(element)[key].match(/\d+/g).slice(0, 3).map(Number);
    const box = (element) => element.getBoundingClientRect();
    return {
      wide: document.documentElement.scrollWidth,
      ground: colour(document.body, "backgroundColor"),
      text: colour(document.body, "color"),
      label: colour(document.querySelector("figure svg text"), "fill"),
      panel: colour(document.querySelector("figure"), "backgroundColor"),
      lines: [...document.querySelectorAll("figure")].map((figure) => ({
        about: figure.querySelector("figcaption b").textContent,
        drawn: [...figure.querySelectorAll(".plot .mark, .plot .area")].filter((mark) => box(mark).width > 20).length,
        within: box(figure).left >= 0 && box(figure).right <= innerWidth,
      })),
    };
  });
  assert.ok(seen.wide <= screen.width, `${name} is ${seen.wide} wide`);
  assert.ok(seen.lines.length >= plots, `${seen.lines.length} plots of ${plots}`);
  for (const { about, drawn, within } of seen.lines) assert.ok(drawn && within, `${name}: ${about}: ${drawn} lines, within: ${within}`);
  assert.equal(luminance(seen.ground) < 0.05, Boolean(screen.dark), `${name}: the ground is ${seen.ground}`);
  assert.ok(contrast(seen.text, seen.ground) >= 7, `${name}: text ${seen.text} on ${seen.ground}`);
  assert.ok(contrast(seen.label, seen.panel) >= 4.5, `${name}: labels ${seen.label} on ${seen.panel}`);
  if (shots) await page.shoot(`${shots}/${name}.png`);
}

try {
  await look("desk", { width: 1280, height: 900 });
  await look("desk-dark", { width: 1280, height: 900, dark: true });
  await look("phone", { width: 360, height: 780, phone: true });
  await look("phone-dark", { width: 360, height: 780, phone: true, dark: true });
  assert.deepEqual(errors, []);
  console.log("the page can be read");
} finally {
  await browser.close();
}
