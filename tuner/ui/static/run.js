/**
 * <tuner-run run="ID">: one run as it happens, from waiting in line to its files. It asks the app
 * for what is new, and changes only the nodes that say something else now.
 *
 * After each change it dispatches a bubbling `tuner-run` event with {run, name, state, resumable,
 * hasAdapter, hasModel, stopAsked, isPublic, mayChange}; `tuner-ready` once it stands in the page.
 */

import { Chart, curveControls } from "./chart.js";
import {
  LIVE, bytes, clock, count, duration, figure, h, keyed, portion, say, sayOrHide, stateSign,
  stateWord,
} from "./words.js";

const LOG_LINES = 200;
const WARNINGS = 5; // shown in plain sight
const SECTION = { class: "tuner-section", hidden: true };

/** The app did not answer, or something that is not the app did. */
class Unreachable extends Error {}

/** GET JSON: {ok, body}, body null where nothing is new. Throws Unreachable. */
export async function ask(url, signal) {
  let reply;
  let body = null;
  try {
    reply = await fetch(url, { signal, cache: "no-store" });
    if (reply.status !== 204) body = await reply.json();
  } catch {
    throw new Unreachable();
  }
  if (!reply.ok && typeof body?.error !== "string") throw new Unreachable();
  return { ok: reply.ok, body };
}

/**
 * Asks again and again while its element is in the page: at once when it comes into sight, slower
 * when nobody can see it, and slower still, up to 5 s, when the app does not answer.
 */
export class Poller {
  #element;
  #ask;
  #reached;
  #request = null;
  #timer = 0;
  #failures = 0;
  #seen = new IntersectionObserver((entries) => entries.at(-1).isIntersecting && this.now());
  #woken = () => document.hidden || this.now();

  /**
   * ask(signal) gets and shows, and resolves to the pauses in ms {seen, unseen}; reached(boolean)
   * is told after each try. Without an element, only the page itself can be out of sight.
   */
  constructor({ element = null, ask: asks, reached = () => {} }) {
    [this.#element, this.#ask, this.#reached] = [element, asks, reached];
  }

  start() {
    this.stop();
    this.#failures = 0;
    document.addEventListener("visibilitychange", this.#woken);
    if (this.#element) this.#seen.observe(this.#element);
    this.#turn();
  }

  stop() {
    document.removeEventListener("visibilitychange", this.#woken);
    this.#seen.disconnect();
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#request?.abort();
    this.#request = null;
  }

  /** Do not wait for the next turn; one that is under way is not doubled. */
  now() {
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#turn();
  }

  async #turn() {
    this.#timer = 0;
    const request = (this.#request = new AbortController());
    const limit = setTimeout(() => request.abort(), 20000);
    const pause = await this.#try(request.signal);
    clearTimeout(limit);
    if (this.#request === request) this.#timer = setTimeout(() => this.#turn(), pause);
  }

  async #try(signal) {
    const request = this.#request;
    try {
      const pause = await this.#ask(signal);
      this.#failures = 0;
      this.#reached(true);
      return this.#onScreen() ? pause.seen : pause.unseen;
    } catch (error) {
      if (this.#request !== request) return 0; // stopped meanwhile; nobody waits for this
      if (!(error instanceof Unreachable)) reportError(error);
      this.#reached(false);
      return Math.min(5000, 1000 * 2 ** this.#failures++);
    }
  }

  #onScreen() {
    return !document.hidden && (!this.#element || this.#element.offsetParent !== null);
  }
}

function emptyStory() {
  return {
    name: "", status: {}, curves: {}, now: null, progress: null, samples: new Map(), log: [],
    lines: 0, warnings: [], facts: [], result: null, files: [], use: null,
  };
}

/** Add a reply to what is known of the run; returns the story. */
export function absorb(story, reply) {
  if (reply.reset) story = emptyStory();
  for (const key of ["name", "status", "now", "progress", "result", "files", "use"]) {
    if (key in reply) story[key] = reply[key];
  }
  for (const [name, points] of Object.entries(reply.curves ?? {})) {
    const curve = (story.curves[name] ??= []);
    for (const point of points) curve.push(point);
  }
  for (const sample of reply.samples ?? []) {
    if (!story.samples.has(sample.index)) story.samples.set(sample.index, new Map());
    story.samples.get(sample.index).set(sample.step, sample);
  }
  for (const line of reply.log ?? []) {
    story.log.push({ ...line, id: story.lines++ });
    const known = line.level !== "warning" || story.warnings.includes(line.text);
    if (!known) story.warnings.push(line.text);
  }
  story.log = story.log.slice(-LOG_LINES);
  if (reply.facts?.length) story.facts = reply.facts;
  return story;
}

/** A section with a heading, hidden until it has something to show. */
function section(title, ...children) {
  return h("section", SECTION, h("h3", {}, title), ...children);
}

/** State, name, step, progress and time left, in one line. */
function headView() {
  const sign = h("span", { class: "tuner-sign", "aria-hidden": "true" });
  const word = h("span", { class: "tuner-state-word", role: "status" });
  const state = h("span", { class: "tuner-state" }, sign, word);
  const name = h("h2", { class: "tuner-name" });
  const step = h("span", { class: "tuner-step" });
  const fill = h("div", { class: "tuner-bar-fill" });
  const bar = h("div", {
    class: "tuner-bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100",
  }, fill);
  const left = h("span", { class: "tuner-left" });
  const node = h("header", { class: "tuner-head" }, state, name, step, bar, left);
  return {
    node,
    update(story) {
      const { status } = story;
      state.dataset.state = status.state;
      say(sign, stateSign(status.state));
      say(word, stateWord(status.state, status.position));
      say(name, story.name);
      sayOrHide(step, stepText(story));
      sayOrHide(left, timeText(story));
      showBar(bar, fill, share(story));
    },
  };
}

function stepText({ status }) {
  if (status.state === "queued" || (status.state === "preparing" && !status.step)) return "";
  if (!status.max_steps) return status.step ? `step ${count(status.step)}` : "";
  return `step ${count(status.step)} of ${count(status.max_steps)}`;
}

function timeText({ status, now }) {
  if (status.stop_asked && LIVE.has(status.state)) return "stopping, keeps the adapter";
  if (status.state === "running") {
    return typeof now?.eta_seconds === "number" ? `${duration(now.eta_seconds)} left` : "";
  }
  const ended = status.started && status.finished && !LIVE.has(status.state);
  return ended ? `took ${duration(status.finished - status.started)}` : "";
}

/** How far the run is, 0 to 1; null where that cannot be said. */
function share({ status, progress }) {
  if (status.state === "queued") return null;
  if (status.state === "preparing") return progress?.total ? progress.done / progress.total : null;
  return status.max_steps ? status.step / status.max_steps : null;
}

function showBar(bar, fill, part) {
  bar.classList.toggle("tuner-bar-away", part === null); // keeps its place, so nothing jumps
  const percent = Math.round(Math.min(1, Math.max(0, part ?? 0)) * 1000) / 10;
  fill.style.width = `${percent}%`;
  bar.setAttribute("aria-valuenow", Math.round(percent));
  bar.setAttribute("aria-label", "progress");
  bar.setAttribute("aria-hidden", String(part === null));
}

/** Why the run is as it is, what it does before it trains, and its warnings. */
function wordsView() {
  const reason = h("p", { class: "tuner-reason", hidden: true });
  const doing = h("p", { class: "tuner-doing", hidden: true });
  const warnings = h("ul", { class: "tuner-warnings" });
  const more = h("p", { class: "tuner-muted", hidden: true });
  return {
    node: h("div", { class: "tuner-words" }, reason, doing, warnings, more),
    update(story) {
      sayOrHide(reason, story.status.reason ?? "");
      sayOrHide(doing, doingText(story));
      const texts = story.warnings;
      const make = () => h("li", {}, h("b", {}, "! warning"), " ", h("span"));
      keyed(warnings, texts.slice(-WARNINGS), (text) => text, make,
        (node, text) => say(node.lastChild, text));
      const hidden = texts.length - WARNINGS;
      sayOrHide(more, hidden > 0 ? `${count(hidden)} earlier ones are in the log.` : "");
    },
  };
}

function doingText({ status, progress, log }) {
  if (status.state !== "preparing") return "";
  if (progress) return `${progress.what} ${portion(progress.done, progress.total, progress.unit)}`;
  return log.at(-1)?.text ?? "";
}

const LOSSES = [
  { key: "loss", name: "train", spoken: "training loss", color: "var(--tuner-accent)", raw: true },
  {
    key: "eval_loss", name: "eval", spoken: "eval loss", color: "var(--tuner-eval)", dash: "6 4",
    dots: true, smooth: false, base: true,
  },
];

const SMALL = [
  ["learning_rate", "learning rate", figure, ""],
  ["grad_norm", "gradient norm", figure, ""],
  ["tokens_per_second", "speed", figure, " tokens/s"],
  ["memory_bytes", "memory", bytes, ""],
];

/** The losses in one chart, and four small ones beside it. */
function curvesView() {
  let curves = {};
  const chart = new Chart({ title: "Loss", height: 260 });
  const controls = curveControls(draw);
  const small = SMALL.map(smallChart);
  function draw() {
    const series = LOSSES.map((each) => ({ ...each, points: curves[each.key] ?? [] }));
    chart.show(series, controls.get());
    small.forEach((each) => each.draw(curves));
  }
  const head = h("div", { class: "tuner-curves-head" },
    h("h3", {}, "Loss"), chart.legend, controls.node);
  const box = h("section", { class: "tuner-section tuner-curves", hidden: true },
    h("div", { class: "tuner-loss" }, head, chart.node),
    h("div", { class: "tuner-small" }, ...small.map((each) => each.node)));
  const waiting = h("p", { class: "tuner-muted", hidden: true },
    "The curves, and answers to the same questions as it learns, will be here from step 1 on.");
  return {
    node: h("div", {}, waiting, box),
    update(story) {
      ({ curves } = story);
      const any = Object.values(curves).some((points) => points.length);
      box.hidden = !any;
      waiting.hidden = any || !LIVE.has(story.status.state);
      draw();
    },
  };
}

function smallChart([key, title, format, unit]) {
  const chart = new Chart({
    title: title + unit, height: 88, compact: true, fromZero: true, format, empty: "",
  });
  const latest = h("b", { class: "tuner-latest" });
  const name = h("span", {}, title);
  const node = h("div", { class: "tuner-small-chart", "data-curve": key },
    h("p", {}, name, " ", latest), chart.node);
  const style = { name: title, color: "var(--tuner-accent)" };
  return {
    node,
    draw(curves) {
      const points = curves[key] ?? [];
      say(latest, points.length ? format(points.at(-1)[1]) + unit : "");
      chart.show([{ ...style, points }]);
    },
  };
}

/** The answers to one of the recipe's questions, side by side: the base's, then as it learnt. */
function samplesView() {
  let samples = new Map();
  let chosen = null;
  const place = h("span", { class: "tuner-question", role: "status" });
  const move = (by) => () => {
    const order = [...samples.keys()];
    choose(order[(order.indexOf(chosen) + by + order.length) % order.length]);
  };
  const button = (label, by, sign) =>
    h("button", { type: "button", "aria-label": label, click: move(by) }, sign);
  const before = button("previous question", -1, "‹");
  const after = button("next question", 1, "›");
  const chooser = h("div", { class: "tuner-chooser" }, before, place, after);
  const prompt = h("p", { class: "tuner-prompt" });
  const strip = h("ol", {
    class: "tuner-strip", tabindex: "0", "aria-label": "answers, from the base model to the newest",
    scroll() {
      atEnd = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 8;
    },
  });
  let atEnd = true; // the newest stays in sight until somebody scrolls back to an earlier one
  const toEnd = () => {
    if (atEnd) strip.scrollLeft = strip.scrollWidth;
  };
  new ResizeObserver(toEnd).observe(strip);
  const node = section("Same questions, as it learns", chooser, prompt, strip);
  node.classList.add("tuner-samples");
  function choose(index) {
    chosen = index;
    show();
  }
  function show() {
    const answers = [...(samples.get(chosen)?.values() ?? [])].sort((a, b) => a.step - b.step);
    say(prompt, answers[0]?.prompt ?? "");
    say(place, `${[...samples.keys()].indexOf(chosen) + 1} of ${samples.size}`);
    keyed(strip, answers, (answer) => answer.step, makeAnswer, fillAnswer);
    toEnd();
  }
  return {
    node,
    update(story) {
      samples = new Map([...story.samples].sort(([one], [other]) => one - other));
      if (!samples.has(chosen)) chosen = samples.keys().next().value ?? null;
      node.hidden = !samples.size;
      chooser.hidden = samples.size < 2;
      show();
    },
  };
}

function makeAnswer({ step }) {
  return h("li", { class: "tuner-sample", "data-step": step },
    h("b", { class: "tuner-sample-step" }, step ? `step ${count(step)}` : "before"),
    h("p", { class: "tuner-sample-text" }));
}

function fillAnswer(node, { text }) {
  const empty = !text.trim();
  node.lastChild.classList.toggle("tuner-nothing", empty);
  say(node.lastChild, empty ? "(nothing)" : text);
}

/** Facts and result: labels and texts the server has put into words. */
function factsView(title, key) {
  const list = h("dl", { class: `tuner-facts tuner-${key}` });
  const node = section(title, list);
  return {
    node,
    update(story) {
      const pairs = story[key] ?? [];
      node.hidden = !pairs.length;
      keyed(list, pairs, ([label]) => label, ([label]) => {
        return h("div", {}, h("dt", {}, label), h("dd"));
      }, (row, [, text]) => say(row.lastChild, text));
    },
  };
}

function filesView() {
  const list = h("ul", { class: "tuner-files" });
  const node = section("Files", list);
  return {
    node,
    update(story, run) {
      const files = story.files ?? [];
      node.hidden = !files.length;
      keyed(list, files, (file) => file.name, (file) => {
        const href = `tuner/runs/${encodeURIComponent(run)}/files/${encodeURIComponent(file.name)}`;
        const link = h("a", { class: "tuner-file", href, download: file.name });
        return h("li", {}, link, " ", h("span", { class: "tuner-muted" }));
      }, (row, file) => {
        say(row.firstChild, file.label);
        say(row.lastChild, typeof file.bytes === "number" ? bytes(file.bytes) : "");
      });
    },
  };
}

/** Code that loads the adapter, to copy. */
function useView() {
  const code = h("code", { class: "tuner-code" });
  const told = h("span", { class: "tuner-muted", role: "status" });
  const button = h("button", { type: "button", class: "tuner-copy", async click() {
    const copied = await copy(code);
    say(told, copied ? "copied" : "Selected. Copy it with your keyboard.");
    setTimeout(() => say(told, ""), 4000);
  } }, "Copy");
  const pre = h("pre", { tabindex: "0" }, code);
  const node = h("details", { class: "tuner-use", hidden: true },
    h("summary", {}, "Use it"), h("p", {}, button, " ", told), pre);
  return {
    node,
    update(story) {
      node.hidden = !story.use;
      say(code, story.use ?? "");
    },
  };
}

/** The clipboard is closed to pages without https; then the text is selected at least. */
async function copy(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

function logView() {
  const lines = h("ol", { class: "tuner-log", tabindex: "0", "aria-label": "log" });
  const node = h("details", { class: "tuner-log-box", hidden: true, toggle() {
    lines.scrollTop = lines.scrollHeight;
  } }, h("summary", {}, "Log"), lines);
  return {
    node,
    update(story) {
      node.hidden = !story.log.length;
      const atEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 8;
      keyed(lines, story.log, (line) => line.id, makeLine);
      if (atEnd) lines.scrollTop = lines.scrollHeight;
    },
  };
}

function makeLine({ time, level, text }) {
  const word = level === "info" ? [] : [h("b", { class: "tuner-level" }, level), " "];
  return h("li", { class: "tuner-log-line", "data-level": level },
    h("time", {}, clock(time)), " ", ...word, h("span", {}, text));
}

/** All of a run's parts, in the order in which they are read. */
function runView() {
  const views = {
    head: headView(), words: wordsView(), curves: curvesView(), samples: samplesView(),
    result: factsView("Result", "result"), files: filesView(), use: useView(),
    facts: factsView("Settings", "facts"), log: logView(),
  };
  const { head, words, curves, samples, result, files, use, facts, log } = views;
  const ends = h("div", { class: "tuner-columns" },
    h("div", {}, result.node, files.node), h("div", {}, facts.node));
  const node = h("div", { class: "tuner-run-view" },
    head.node, words.node, curves.node, samples.node, ends, use.node, log.node);
  return {
    node,
    update: (story, run) => Object.values(views).forEach((view) => view.update(story, run)),
  };
}

class TunerRun extends HTMLElement {
  static observedAttributes = ["run"];
  #story = emptyStory();
  #mark = null; // {after, version}: what the app said last
  #view = null;
  #offline = h("p", { class: "tuner-offline", role: "status", hidden: true });
  #error = h("div", { class: "tuner-error", role: "alert", hidden: true },
    h("p"), h("button", { type: "button", click: () => window.Tuner?.close() }, "Back"));
  #poller = new Poller({
    element: this,
    ask: (signal) => this.#ask(signal),
    reached: (reached) => sayOrHide(this.#offline, reached ? "" :
      "The app cannot be reached. The run goes on by itself; trying again."),
  });

  connectedCallback() {
    this.classList.add("tuner");
    this.#restart();
    this.dispatchEvent(new CustomEvent("tuner-ready", { bubbles: true }));
  }

  disconnectedCallback() {
    this.#poller.stop();
  }

  attributeChangedCallback(name, before, after) {
    if (!this.isConnected) return;
    if (before === after) this.#poller.now(); // asked for again: it may have been resumed
    else this.#restart();
  }

  get run() {
    return this.getAttribute("run") ?? "";
  }

  #restart() {
    this.#poller.stop();
    this.#mark = null;
    this.#view = null;
    this.#offline.hidden = this.#error.hidden = true;
    this.replaceChildren(this.#offline, this.#error);
    if (this.run) this.#poller.start();
  }

  async #ask(signal) {
    const mark = this.#mark ? `?${new URLSearchParams(this.#mark)}` : "";
    const url = `tuner/runs/${encodeURIComponent(this.run)}/live${mark}`;
    const { ok, body } = await ask(url, signal);
    if (!ok) return this.#refused(body.error);
    if (body) this.#absorb(body);
    const live = LIVE.has(this.#story.status.state);
    return { seen: live ? 800 : 5000, unseen: 5000 };
  }

  #absorb(reply) {
    this.#story = absorb(this.#story, reply);
    this.#mark = { after: reply.next, version: reply.version };
    if (!this.#view) this.append((this.#view = runView()).node);
    this.#error.hidden = true;
    this.#view.node.hidden = false;
    this.#view.update(this.#story, this.run);
    this.#tell(this.#story.status, reply.may_change);
  }

  #refused(sentence) {
    this.#mark = null;
    if (this.#view) this.#view.node.hidden = true;
    say(this.#error.firstChild, sentence);
    this.#error.hidden = false;
    this.#tell({ state: "" });
    return { seen: 5000, unseen: 5000 };
  }

  #tell(status, mayChange = false) {
    const detail = {
      run: this.run,
      name: this.#story.name,
      state: status.state,
      resumable: Boolean(status.resumable),
      hasAdapter: Boolean(status.has_adapter),
      hasModel: Boolean(status.has_model),
      stopAsked: Boolean(status.stop_asked),
      isPublic: Boolean(status.public),
      mayChange: Boolean(mayChange),
    };
    this.dispatchEvent(new CustomEvent("tuner-run", { bubbles: true, detail }));
  }
}

customElements.define("tuner-run", TunerRun);
