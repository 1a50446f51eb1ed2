// Small time charts in SVG: lines, or areas stacked to a whole. The legend holds the current figures, or the values at the
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

const SPREAD = 20; // from this ratio of highest to lowest value on, a chart that allows it has a log scale

export class Chart {
  // series: [{ name, color (a CSS variable), dashed }]; format, tick: turn a value into text; log: may use a log scale
  constructor(host, { title, series, format, tick = format, stacked = false, log = false }) {
    this.title = title;
    this.series = series;
    this.format = format;
    this.tick = tick;
    this.stacked = stacked;
    this.log = log;
    this.current = null;
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
    this.when.className = "when";
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

  // times: seconds, ascending; columns: values per series, null for a gap; figures: the current values per series, and
  // the window that they are of
  show(times, columns, figures, window) {
    this.times = times;
    this.columns = columns;
    this.current = figures;
    this.window = window;
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
    const x = (time) => LEFT + ((time - first) / Math.max(last - first, 1e-9)) * (width - LEFT - 1);
    const scale = this.scale();
    const y = (value) => bottom - scale.share(value) * (bottom - TOP);
    const parts = [];
    for (const value of scale.ticks) {
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
      const label = value === 0 ? "0" : this.tick(value);
      parts.push(shape("text", { class: "tick", x: LEFT - 7, y: y(value) + 4, "text-anchor": "end" }, label));
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

  // The vertical scale: linear from 0, or logarithmic if the values spread widely.
  scale() {
    const values = this.columns.flat().filter((value) => value !== null);
    const most = this.stacked ? 1 : roundUp(Math.max(0, ...values));
    const least = Math.min(...values.filter((value) => value > 0));
    this.logarithmic = this.log && most / least >= SPREAD;
    if (!this.logarithmic) return { share: (value) => value / most, ticks: [0, most / 2, most] };
    const low = Math.floor(Math.log10(least));
    const decades = Math.max(1, Math.ceil(Math.log10(most)) - low);
    const step = Math.ceil(decades / 4); // at most five ticks
    const ticks = Array.from({ length: Math.floor(decades / step) + 1 }, (_, i) => 10 ** (low + i * step));
    const share = (value) => Math.min(1, Math.max(0, (Math.log10(Math.max(value, 1e-12)) - low) / decades));
    return { share, ticks };
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
    const at = this.at;
    const labels = [];
    this.values.forEach(({ key, value }, i) => {
      const here = at !== null ? this.columns[i][at] : this.current === null ? null : this.current[i];
      value.textContent = here === null || here === undefined ? "–" : this.format(here);
      key.hidden = this.stacked && !this.columns[i].some((each) => each > 0);
      if (!key.hidden) labels.push(`${this.series[i].name} ${value.textContent}`);
    });
    this.when.textContent = `${at === null ? this.window || "" : `at ${seconds(this.times[at])}`}${this.logarithmic ? " · log scale" : ""}`;
    const time = at === null ? this.window || "Now" : `At ${seconds(this.times[at])}`;
    this.svg.setAttribute("aria-label", `${this.title}. ${time[0].toUpperCase()}${time.slice(1)}: ${labels.join(", ")}`);
  }
}
