/**
 * Line charts in SVG: axes with round ticks, smoothing, a log axis, and a readout by pointer or
 * arrow keys. Long curves are cut down to what a pixel column can show before they are drawn.
 *
 *     const chart = new Chart({ title: "Loss" });
 *     parent.append(chart.legend, chart.node);
 *     chart.show([{ name: "train", points: [[1, 2.1], [2, 1.9]], color: "var(--tuner-accent)" }]);
 *
 * A series is {name, points: [[step, value], …] by rising step, color, dash?: "6 4", dots?: true,
 * mark?: "A" (a letter at the line's end), raw?: true (keep the unsmoothed line faint behind),
 * smooth?: false (never smooth it), base?: true (its value at step 0 is the base model's)}.
 */

import { count, figure, h, keyed, loss, recall, remember, say } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const LETTER = 6.8; // width of a digit in the axes' 12 px type

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Exponential moving average, its start corrected for the missing past, as TensorBoard's. */
export function smoothed(points, weight) {
  const values = new Float64Array(points.length);
  let average = 0;
  let share = 1; // of the average that is still the zero it started from
  for (let index = 0; index < points.length; index++) {
    average = average * weight + (1 - weight) * points[index][1];
    share *= weight;
    values[index] = weight ? average / (1 - share) : points[index][1];
  }
  return values;
}

/** The distance between round ticks, 1, 2 or 5 times a power of ten. */
function tickStep(span, wanted) {
  const rough = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
  return factor * power;
}

export function ticks(low, high, wanted) {
  const step = tickStep(high - low, wanted);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

/** Ticks on a log axis: 1, 2, 5 in each decade; evenly spaced where that leaves too few. */
export function logTicks(low, high, wanted) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of [1, 2, 5]) {
      const value = Number((factor * 10 ** power).toPrecision(12));
      if (value >= low && value <= high) found.push(value);
    }
  }
  if (found.length < 3) return ticks(low, high, wanted).filter((value) => value > 0);
  const isPower = (value) => Math.abs(Math.log10(value) % 1) < 1e-9;
  return found.length > wanted * 2 ? found.filter(isPower) : found;
}

/** The range of all lines; null where there is no point to draw. */
function extent(lines, log) {
  const range = { left: Infinity, right: -Infinity, low: Infinity, high: -Infinity };
  for (const { points, values } of lines) {
    for (let index = 0; index < points.length; index++) {
      const value = values[index];
      if (!Number.isFinite(value) || (log && value <= 0)) continue;
      const step = points[index][0];
      if (step < range.left) range.left = step;
      if (step > range.right) range.right = step;
      if (value < range.low) range.low = value;
      if (value > range.high) range.high = value;
    }
  }
  return range.left <= range.right ? range : null;
}

/** A vertical axis that ends on ticks. */
function verticalAxis(range, wanted, { log, fromZero }) {
  if (log) {
    const room = range.high > range.low ? (range.high / range.low) ** 0.05 : 1.1;
    const [low, high] = [range.low / room, range.high * room];
    return { low, high, marks: logTicks(low, high, wanted), at: Math.log };
  }
  let { low, high } = range;
  if (fromZero) low = Math.min(0, low);
  if (low === high) {
    const room = Math.abs(low) * 0.1 || 1;
    [low, high] = fromZero ? [0, high + room] : [low - room, high + room];
  }
  const step = tickStep(high - low, wanted);
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  return { low, high, marks: ticks(low, high, wanted), at: (value) => value };
}

/**
 * An SVG path through all points, of which each pixel column keeps its first, lowest, highest and
 * last: it looks the same as the whole, and 100,000 points cost no more than a few thousand.
 */
export function linePath(points, values, x, y) {
  const parts = [];
  let column = null;
  let kept = null; // indices of the column's first, lowest, highest and last point
  const flush = () => {
    for (const index of [...new Set(kept)].sort((one, other) => one - other)) {
      parts.push(`${x(points[index][0]).toFixed(1)} ${y(values[index]).toFixed(1)}`);
    }
  };
  for (let index = 0; index < points.length; index++) {
    if (!Number.isFinite(y(values[index]))) continue; // nothing at or below 0 on a log axis
    const here = Math.floor(x(points[index][0]));
    if (here !== column) {
      if (kept) flush();
      column = here;
      kept = [index, index, index, index];
    }
    if (values[index] < values[kept[1]]) kept[1] = index;
    if (values[index] > values[kept[2]]) kept[2] = index;
    kept[3] = index;
  }
  if (kept) flush();
  return parts.length ? `M${parts.join("L")}` : "";
}

/** Dots as one path of points without length, which round line ends make visible. */
function dotPath(points, x, y) {
  return points
    .filter((point) => Number.isFinite(y(point[1])))
    .map(([step, value]) => `M${x(step).toFixed(1)} ${y(value).toFixed(1)}h.01`)
    .join("");
}

/** The index of the point nearest to a step. */
function nearest(points, step) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1;
    else high = middle;
  }
  const before = points[low - 1];
  return before && step - before[0] <= points[low][0] - step ? low - 1 : low;
}

/** Keep letters at the lines' ends from covering each other: upwards, from the lowest on. */
function spread(labels, gap) {
  labels.sort((one, other) => other.y - one.y);
  labels.forEach((label, index) => {
    const beside = labels.slice(0, index).filter((other) => Math.abs(other.x - label.x) < gap);
    label.y = Math.min(label.y, ...beside.map((other) => other.y - gap));
  });
  return labels;
}

export class Chart {
  #options;
  #series = [];
  #smoothing = 0;
  #log = false;
  #width = 0;
  #frame = 0;
  #plan = null; // scales and lines of the last drawing; the readout reads them
  #step = null; // where the readout stands
  #paths = svg("g");
  #axes = svg("g", { class: "tuner-axes" });
  #marks = svg("g", { class: "tuner-marks" });
  #cursor = svg("g", { class: "tuner-cursor" });
  #readout = h("div", { class: "tuner-readout", hidden: true });
  #empty;

  /**
   * Options: title (for the label), height, format (a value in words), compact (no step axis),
   * fromZero (the axis starts at 0), empty (what to say while there are no points).
   */
  constructor(options) {
    this.#options = { height: 240, format: loss, compact: false, fromZero: false, ...options };
    const { height, empty = "no points yet" } = this.#options;
    this.svg = svg("svg", { class: "tuner-plot", role: "img", tabindex: "0", height });
    this.svg.append(this.#axes, this.#paths, this.#marks, this.#cursor);
    this.#empty = h("p", { class: "tuner-chart-empty" }, empty);
    this.node = h("div", { class: "tuner-chart" }, this.svg, this.#empty, this.#readout);
    this.legend = h("ul", { class: "tuner-legend" });
    this.#listen();
  }

  /** Show these series; drawn with the next frame, however often it is called before. */
  show(series, { smoothing = 0, log = false } = {}) {
    this.#series = series;
    this.#smoothing = smoothing;
    this.#log = log;
    this.#request();
  }

  #request() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#width) this.#draw();
    });
  }

  #listen() {
    new ResizeObserver(([entry]) => {
      this.#width = Math.floor(entry.contentRect.width);
      this.#request();
    }).observe(this.node);
    const leave = () => this.#point(null);
    this.svg.addEventListener("pointermove", (event) => this.#hover(event));
    this.svg.addEventListener("pointerdown", (event) => this.#hover(event));
    this.svg.addEventListener("pointerleave", leave);
    this.svg.addEventListener("blur", leave);
    this.svg.addEventListener("keydown", (event) => this.#key(event));
  }

  #draw() {
    const lines = this.#series.filter((each) => each.points.length).map((each) => this.#line(each));
    const range = extent([...lines, ...lines.flatMap((line) => line.behind ?? [])], this.#log);
    this.#empty.hidden = range !== null;
    this.svg.setAttribute("width", this.#width);
    this.svg.setAttribute("aria-label", this.#label());
    this.#plan = range && this.#scales(range, lines);
    this.#drawAxes();
    this.#drawLines(lines);
    this.#drawLegend();
    this.#drawMarks();
    this.#point(this.#step);
  }

  /** A series with the values to draw, and the raw ones to draw behind them. */
  #line(series) {
    const weight = series.smooth === false ? 0 : this.#smoothing;
    const values = smoothed(series.points, weight);
    const raw = weight && series.raw;
    const behind = raw ? { points: series.points, values: smoothed(series.points, 0) } : null;
    return { series, points: series.points, values, behind, weight };
  }

  #scales(range, lines) {
    const { compact, height, format, fromZero } = this.#options;
    const wanted = compact ? 1 : Math.max(2, Math.floor(height / 48));
    const axis = verticalAxis(range, wanted, { log: this.#log, fromZero });
    const labels = axis.marks.map((value) => this.#tickText(value, axis.marks, format));
    const letters = Math.max(4, ...labels.map((label) => label.length));
    const left = Math.ceil(letters * LETTER) + 10;
    const right = this.#width - (lines.some((line) => line.series.mark) ? 24 : 10);
    const [top, bottom] = [8, height - (compact ? 8 : 24)];
    const [first, last] = range.left < range.right
      ? [range.left, range.right] : [range.left - 1, range.right + 1];
    const span = axis.at(axis.high) - axis.at(axis.low);
    const x = (step) => left + ((step - first) / (last - first)) * (right - left);
    const y = (value) =>
      bottom - ((axis.at(value) - axis.at(axis.low)) / span) * (bottom - top);
    return { lines, axis, labels, left, right, top, bottom, first, last, x, y };
  }

  /** Ticks of a loss need as many digits as tell them apart. */
  #tickText(value, marks, format) {
    if (format !== loss) return value ? format(value) : "0";
    const gap = marks.length > 1 ? Math.min(...marks.slice(1).map((m, i) => m - marks[i])) : value;
    const digits = Math.min(6, Math.max(0, -Math.floor(Math.log10(gap || 1) + 1e-9)));
    return value.toFixed(Math.max(digits, value % 1 ? 1 : 0));
  }

  #drawAxes() {
    const plan = this.#plan;
    this.#axes.replaceChildren();
    if (!plan) return;
    plan.axis.marks.forEach((value, index) => {
      const y = plan.y(value).toFixed(1);
      this.#axes.append(
        svg("line", { x1: plan.left, x2: plan.right, y1: y, y2: y }),
        svg("text", { x: plan.left - 8, y, dy: ".35em", "text-anchor": "end" }, plan.labels[index]),
      );
    });
    if (!this.#options.compact) this.#drawSteps(plan);
  }

  #drawSteps(plan) {
    const wanted = Math.max(2, Math.floor((plan.right - plan.left) / 70));
    const whole = ticks(plan.first, plan.last, wanted)
      .filter((step) => step >= 0 && step % 1 === 0);
    const y = this.#options.height - 6;
    for (const step of whole) {
      const x = plan.x(step);
      const [text, half] = [count(step), (count(step).length * LETTER) / 2];
      if (x + half > plan.right - 36) continue; // the unit stands there
      this.#axes.append(svg("text", { x: x.toFixed(1), y, "text-anchor": "middle" }, text));
    }
    this.#axes.append(svg("text", { x: plan.right, y, "text-anchor": "end" }, "step"));
  }

  #drawLines(lines) {
    const drawn = lines.flatMap((line) => this.#pathsOf(line));
    const make = () => svg("path", { fill: "none" });
    keyed(this.#paths, drawn, (path) => path.key, make, (node, path) => {
      node.setAttribute("class", path.class);
      node.setAttribute("data-series", path.name);
      node.setAttribute("style", path.style);
      node.setAttribute("d", path.d);
    });
  }

  /** What is drawn for one line: the faint raw one, the line itself, its dots. */
  #pathsOf({ series, points, values, behind }) {
    if (!this.#plan) return [];
    const { x, y } = this.#plan;
    const { name, color, dash = "none" } = series;
    const path = (kind, d, style) =>
      ({ key: `${name} ${kind}`, class: `tuner-${kind}`, name, d, style });
    const stroke = `stroke: ${color}`;
    const paths = [];
    if (behind) paths.push(path("raw", linePath(points, behind.values, x, y), stroke));
    const line = linePath(points, values, x, y);
    paths.push(path("line", line, `${stroke}; stroke-dasharray: ${dash}`));
    if (!series.dots || points.length > this.#width / 10) return paths;
    const ofBase = (point) => Boolean(series.base) && point[0] === 0;
    const tuned = points.filter((point) => !ofBase(point));
    paths.push(path("dots", dotPath(tuned, x, y), stroke));
    if (tuned.length < points.length) {
      const base = dotPath(points.filter(ofBase), x, y);
      paths.push(path("dots-base", base, "stroke: var(--tuner-base)"));
    }
    return paths;
  }

  #drawLegend() {
    const make = (series) => {
      const style = `stroke: ${series.color}; stroke-dasharray: ${series.dash ?? "none"}`;
      const line = svg("line", { x1: 1, x2: 27, y1: 6, y2: 6, style });
      const swatch = svg("svg", { width: 28, height: 12, "aria-hidden": "true" }, line);
      if (series.dots) swatch.append(svg("circle", { cx: 14, cy: 6, r: 3.5, fill: series.color }));
      return h("li", {}, swatch, h("span"));
    };
    const key = (series) => series.name + series.color;
    keyed(this.legend, this.#series, key, make, (node, series) => {
      say(node.lastChild, series.mark ? `${series.mark}  ${series.label}` : series.name);
    });
  }

  #drawMarks() {
    this.#marks.replaceChildren();
    const marked = this.#plan?.lines.filter((line) => line.series.mark) ?? [];
    const labels = marked.map(({ series, points, values }) => ({
      text: series.mark,
      color: series.color,
      x: this.#plan.x(points.at(-1)[0]) + 6,
      y: this.#plan.y(values.at(-1)),
    }));
    for (const { text, color, x, y } of spread(labels, 12)) {
      if (!Number.isFinite(y)) continue;
      this.#marks.append(svg("text", { x, y, dy: ".35em", style: `fill: ${color}` }, text));
    }
  }

  /** The chart in a sentence, for those who do not see it. */
  #label() {
    const told = this.#series.filter((each) => each.points.length).map((series) => {
      const [[from, first], [to, last]] = [series.points[0], series.points.at(-1)];
      const { format } = this.#options;
      const start = `${series.spoken ?? series.name} ${format(first)} at step ${count(from)}`;
      return from === to ? start : `${start} to ${format(last)} at step ${count(to)}`;
    });
    return `${this.#options.title}: ${told.join("; ") || "no points yet"}`;
  }

  #hover(event) {
    const plan = this.#plan;
    if (!plan) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    const share = (x - plan.left) / (plan.right - plan.left);
    this.#readout.setAttribute("aria-live", "off");
    this.#point(plan.first + Math.min(1, Math.max(0, share)) * (plan.last - plan.first));
  }

  #key(event) {
    const plan = this.#plan;
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") this.#point(null);
    if (!plan || !(event.key in moves)) return;
    event.preventDefault();
    this.#readout.setAttribute("aria-live", "polite");
    this.#point(this.#neighbour(moves[event.key], event.shiftKey ? 10 : 1));
  }

  /** The step some points further on the line with the most points; at first, its last one. */
  #neighbour(direction, distance) {
    const { points } = this.#plan.lines.reduce((one, other) =>
      other.points.length > one.points.length ? other : one);
    const end = points.length - 1;
    const here = this.#step === null ? Infinity : nearest(points, this.#step);
    const there = here === Infinity && direction < 0 ? end : here + direction * distance;
    return points[Number.isNaN(there) ? 0 : Math.min(end, Math.max(0, there))][0];
  }

  /** Put the readout at a step, or away. */
  #point(step) {
    this.#step = step;
    const plan = this.#plan;
    this.#readout.hidden = step === null || !plan;
    this.#cursor.replaceChildren();
    if (this.#readout.hidden) return;
    const found = plan.lines.map((line) => ({ line, index: nearest(line.points, step) }));
    const near = found.reduce((one, other) => {
      const away = ({ line, index }) => Math.abs(line.points[index][0] - step);
      return away(other) < away(one) ? other : one;
    });
    const here = near.line.points[near.index][0];
    this.#drawCursor(here, found);
    this.#read(here, found);
  }

  #drawCursor(step, found) {
    const { x, y, top, bottom } = this.#plan;
    this.#cursor.append(svg("line", { x1: x(step), x2: x(step), y1: top, y2: bottom }));
    for (const { line, index } of found) {
      const [cx, cy] = [x(line.points[index][0]), y(line.values[index])];
      if (!Number.isFinite(cy)) continue;
      const style = `fill: ${line.series.color}`;
      this.#cursor.append(svg("circle", { cx, cy, r: 4, style }));
    }
  }

  #read(step, found) {
    const texts = found.map(({ line, index }) => this.#valueText(line, index, step));
    keyed(this.#readout, [`step ${count(step)}`, ...texts].map((text, index) => ({ text, index })),
      (row) => row.index, () => h("div"), (node, row) => say(node, row.text));
    const x = this.#plan.x(step);
    const leftHalf = x < this.#width / 2;
    this.#readout.style.left = leftHalf ? `${x + 12}px` : "auto";
    this.#readout.style.right = leftHalf ? "auto" : `${this.#width - x + 12}px`;
  }

  #valueText(line, index, step) {
    const { format } = this.#options;
    const { series, points, values, weight } = line;
    const name = series.mark ? `${series.mark} ${series.label}` : series.name;
    const raw = weight ? ` (unsmoothed ${format(points[index][1])})` : "";
    const where = points[index][0] === step ? "" : ` at step ${count(points[index][0])}`;
    return `${name} ${format(values[index])}${raw}${where}`;
  }
}

/** The smoothing slider and the log-axis tick for loss charts, as this browser remembers them. */
export function curveControls(changed) {
  const smoothing = h("input", {
    type: "range", min: "0", max: "0.99", step: "0.01", class: "tuner-smoothing", input: update,
  });
  const shown = h("output", { class: "tuner-smoothing-value" });
  const log = h("input", { type: "checkbox", class: "tuner-log-axis", change: update });
  smoothing.value = recall("smoothing", "0.6");
  log.checked = recall("log-axis", "") === "yes";
  say(shown, Number(smoothing.value).toFixed(2));
  function update() {
    say(shown, Number(smoothing.value).toFixed(2));
    remember("smoothing", smoothing.value);
    remember("log-axis", log.checked ? "yes" : "no");
    changed();
  }
  const node = h("div", { class: "tuner-controls" },
    h("label", {}, "smoothing ", smoothing, shown), h("label", {}, log, " log axis"));
  return { node, get: () => ({ smoothing: Number(smoothing.value), log: log.checked }) };
}

/** A curve as small as a word, for lists. */
export function sparkline(values, { width = 96, height = 24 } = {}) {
  const points = values.map((value, index) => [index, value]);
  const range = extent([{ points, values }], false);
  const ends = range && `${figure(values[0])} to ${figure(values.at(-1))}`;
  const told = range ? `train loss ${ends}` : "no curve yet";
  const node = svg("svg", {
    class: "tuner-spark", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": told,
  });
  if (!range) return node;
  const x = (index) => 2 + (index / Math.max(1, points.length - 1)) * (width - 4);
  const y = (value) =>
    height - 2 - ((value - range.low) / (range.high - range.low || 1)) * (height - 4);
  node.append(svg("path", { fill: "none", d: linePath(points, values, x, y) }));
  return node;
}
