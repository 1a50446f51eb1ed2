// Small time charts in SVG: lines, or areas stacked to a whole. The legend holds the values at the latest time, or at the
// time that the pointer or the arrow keys select, so a reader who cannot see the lines gets the same figures.

import { seconds, short } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 132;
const LEFT = 44;
const BOTTOM = 18;
const TOP = 8;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Return the smallest of 1, 2 or 5 times a power of ten that is not below the value.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export class Chart {
  // series: [{ name, color (a CSS variable), dashed }]; format: turns a value into text
  constructor(host, { title, series, format, stacked = false }) {
    this.title = title;
    this.series = series;
    this.format = format;
    this.stacked = stacked;
    this.times = [];
    this.columns = series.map(() => []);
    this.at = null;
    this.figure = document.createElement("figure");
    this.figure.className = "chart";
    this.svg = shape("svg", { height: HEIGHT, role: "img", tabindex: "0" });
    this.legend = document.createElement("figcaption");
    this.legend.className = "legend";
    this.values = series.map((each) => this.key(each));
    this.when = document.createElement("span");
    this.legend.append(this.when);
    this.figure.append(this.svg, this.legend);
    host.append(this.figure);
    new ResizeObserver(() => this.draw()).observe(host);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.move(null));
    this.svg.addEventListener("blur", () => this.move(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
  }

  key(each) {
    const key = document.createElement("span");
    const swatch = document.createElement("span");
    const value = document.createElement("b");
    key.className = "key";
    swatch.className = "swatch";
    swatch.style.background = `var(${each.color})`;
    key.append(swatch, each.name, value);
    this.legend.append(key);
    return { key, value };
  }

  // times: seconds, ascending; columns: values per series, null for a gap
  show(times, columns) {
    this.times = times;
    this.columns = columns;
    if (this.at !== null && this.at >= times.length) this.at = null;
    this.draw();
  }

  press(event) {
    const last = this.times.length - 1;
    const from = this.at === null ? last : this.at;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.move(to === null ? null : Math.max(0, Math.min(last, to)));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const first = this.times[0];
    const span = this.times[this.times.length - 1] - first;
    if (!(span > 0)) return;
    const wanted = first + ((event.clientX - box.left - LEFT) / (box.width - LEFT)) * span;
    let nearest = 0;
    this.times.forEach((time, i) => {
      if (Math.abs(time - wanted) < Math.abs(this.times[nearest] - wanted)) nearest = i;
    });
    this.move(nearest);
  }

  move(at) {
    this.at = at;
    this.draw();
  }

  draw() {
    const width = this.svg.parentElement.clientWidth;
    if (!width) return;
    const bottom = HEIGHT - BOTTOM;
    const first = this.times.length ? this.times[0] : 0;
    const last = this.times.length ? this.times[this.times.length - 1] : 1;
    const most = this.stacked ? 1 : roundUp(Math.max(0, ...this.columns.flat().filter((value) => value !== null)));
    const x = (time) => LEFT + ((time - first) / Math.max(last - first, 1e-9)) * (width - LEFT - 1);
    const y = (value) => bottom - (value / most) * (bottom - TOP);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: width, y1: y(share * most), y2: y(share * most) }));
      const label = share * most === 0 ? "0" : this.format(share * most);
      parts.push(shape("text", { class: "tick", x: LEFT - 7, y: y(share * most) + 4, "text-anchor": "end" }, label));
    }
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const time = first + share * (last - first);
      if (this.times.length > 1) {
        parts.push(shape("text", { class: "tick", x: x(time), y: HEIGHT - 3, "text-anchor": anchor }, short(time)));
      }
    }
    parts.push(...(this.stacked ? this.areas(x, y) : this.lines(x, y)));
    if (this.at !== null) {
      const place = x(this.times[this.at]);
      parts.push(shape("line", { class: "cursor", x1: place, x2: place, y1: TOP, y2: bottom }));
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...parts);
    this.updateLegend();
  }

  lines(x, y) {
    return this.columns.map((column, i) => {
      let path = "";
      let drawing = false;
      column.forEach((value, j) => {
        if (value === null) {
          drawing = false;
          return;
        }
        path += `${drawing ? "L" : "M"}${x(this.times[j]).toFixed(1)} ${y(value).toFixed(1)}`;
        drawing = true;
      });
      const { color, dashed } = this.series[i];
      const line = shape("path", { class: dashed ? "series dashed" : "series", d: path });
      line.style.stroke = `var(${color})`;
      return line;
    });
  }

  areas(x, y) {
    const base = this.times.map(() => 0);
    return this.columns.map((column, i) => {
      const low = this.times.map((time, j) => `${x(time).toFixed(1)} ${y(base[j]).toFixed(1)}`);
      column.forEach((value, j) => (base[j] += value || 0));
      const high = this.times.map((time, j) => `${x(time).toFixed(1)} ${y(base[j]).toFixed(1)}`);
      const area = shape("path", { d: high.length ? `M${high.join("L")}L${low.reverse().join("L")}Z` : "" });
      area.style.fill = `var(${this.series[i].color})`;
      return area;
    });
  }

  updateLegend() {
    const at = this.at === null ? this.times.length - 1 : this.at;
    const labels = [];
    this.values.forEach(({ key, value }, i) => {
      const here = at < 0 ? null : this.columns[i][at];
      value.textContent = here === null || here === undefined ? "–" : this.format(here);
      key.hidden = this.stacked && !this.columns[i].some((each) => each > 0);
      if (!key.hidden) labels.push(`${this.series[i].name} ${value.textContent}`);
    });
    this.when.textContent = this.at === null ? "" : `at ${seconds(this.times[at])}`;
    this.svg.setAttribute("aria-label", `${this.title}. ${this.when.textContent || "Now"}: ${labels.join(", ")}`);
  }
}
