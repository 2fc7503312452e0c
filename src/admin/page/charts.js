// Line charts in SVG: five minutes, one point a second. A chart is a figure with its values in the caption, so that it
// can be read without seeing it; arrow keys or the pointer show the values of a moment.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = { blue: "", orange: "7 3", green: "2 3", red: "9 3 2 3", purple: "4 2", black: "1 4" };
const SPAN = 300;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === undefined || value === null) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// A rounded-up top of the scale: 1, 2 or 5 times a power of ten.
function roundUp(value) {
  const power = Math.pow(10, Math.floor(Math.log10(value)));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value * 0.999);
}

class Chart {
  // series: [{ label, colour, of: point => number | null }]; format: number => text; floor: least top of the scale.
  constructor(parent, { title, series, format, floor, logarithmic }) {
    Object.assign(this, { series, format, floor, logarithmic: logarithmic || false, points: [], cursor: null });
    this.outputs = series.map(() => make("output", {}));
    const keys = series.map((one, at) => {
      const sample = shape("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      sample.append(shape("line", { x1: 0, y1: 5, x2: 26, y2: 5, class: "c-" + one.colour, "stroke-dasharray": DASHES[one.colour] }));
      return make("span", { class: "key" }, sample, one.label + " ", this.outputs[at]);
    });
    this.when = make("span", { class: "key" });
    this.svg = shape("svg", { class: "plot", role: "img", tabindex: "0", "aria-label": title + ": arrow keys move through the last five minutes" });
    parent.append(make("figure", {}, make("figcaption", {}, make("b", {}, title + " ", this.when), ...keys), this.svg));
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.moveTo(null));
    this.svg.addEventListener("blur", () => this.moveTo(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  update(points, now) {
    this.points = points;
    this.now = now;
    if (this.svg.getBoundingClientRect().width > 0) this.draw();
  }

  point(x) {
    const t = this.now - SPAN + ((x - this.left) / (this.width - this.left)) * SPAN;
    const nearest = this.points.reduce((best, p) => (best && Math.abs(best.t - t) <= Math.abs(p.t - t) ? best : p), null);
    this.moveTo(nearest && nearest.t);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
    if (event.key === "Escape") return this.moveTo(null);
    if (!step || !this.points.length) return;
    event.preventDefault();
    const at = this.cursor === null ? this.points.length - 1 : this.points.findIndex((p) => p.t >= this.cursor);
    const next = Math.min(this.points.length - 1, Math.max(0, at + step));
    this.moveTo(this.points[next].t);
  }

  moveTo(t) {
    this.cursor = t;
    this.draw();
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || !this.now) return;
    const top = this.top();
    Object.assign(this, { width, height, left: 54 });
    const bottom = height - 16;
    const x = (t) => this.left + ((t - this.now + SPAN) / SPAN) * (width - this.left);
    const y = (value) => bottom - (bottom - 6) * this.share(value, top);
    const parts = [];
    for (const value of this.lines(top)) {
      parts.push(shape("line", { class: "grid", x1: this.left, x2: width, y1: y(value), y2: y(value) }));
      parts.push(this.label(this.left - 5, y(value) + 4, this.format(value), "end"));
    }
    for (const [seconds, text] of [[300, "5 min ago"], [180, "3 min"], [60, "1 min"], [0, "now"]]) {
      parts.push(this.label(x(this.now - seconds), height - 3, text, seconds === 300 ? "start" : seconds ? "middle" : "end"));
    }
    for (const one of this.series) {
      const path = shape("path", { class: "series c-" + one.colour, d: this.path(one, x, y), "stroke-dasharray": DASHES[one.colour] });
      parts.push(path);
    }
    const shown = this.cursor === null ? this.points[this.points.length - 1] : this.points.find((p) => p.t === this.cursor);
    if (this.cursor !== null && shown) {
      parts.push(shape("line", { class: "cursor", x1: x(shown.t), x2: x(shown.t), y1: 4, y2: bottom }));
    }
    this.svg.replaceChildren(...parts);
    this.series.forEach((one, at) => {
      const value = shown ? one.of(shown) : null;
      this.outputs[at].textContent = value === null || value === undefined ? "–" : this.format(value);
    });
    this.when.textContent = this.cursor !== null && shown ? new Date(shown.t * 1000).toLocaleTimeString() : "";
  }

  label(x, y, text, anchor) {
    const node = shape("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    return node;
  }

  top() {
    let top = this.floor;
    for (const point of this.points) {
      for (const one of this.series) top = Math.max(top, one.of(point) || 0);
    }
    return roundUp(top);
  }

  share(value, top) {
    if (!this.logarithmic) return Math.min(1, value / top);
    const low = Math.log10(this.logarithmic);
    return Math.max(0, (Math.log10(Math.max(value, this.logarithmic)) - low) / (Math.log10(top) - low));
  }

  lines(top) {
    if (!this.logarithmic) return [0, top / 2, top];
    const lines = [];
    for (let value = this.logarithmic; value <= top * 1.001; value *= 10) lines.push(value);
    return lines;
  }

  // A gap where there is no value or a second is missing.
  path(one, x, y) {
    let path = "";
    let last = null;
    for (const point of this.points) {
      const value = one.of(point);
      if (value === null || value === undefined) {
        last = null;
        continue;
      }
      path += (last !== null && point.t - last <= 3 ? "L" : "M") + x(point.t).toFixed(1) + " " + y(value).toFixed(1);
      last = point.t;
    }
    return path || "M0 0";
  }
}
