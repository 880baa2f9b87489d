/**
 * <tuner-runs>: the list of runs, kept up to date; those that are ticked are compared below it,
 * curve over curve, with only the settings that differ.
 */

import { Chart, curveControls, sparkline } from "./chart.js";
import { Poller, ask } from "./run.js";
import {
  LIVE, count, duration, h, keyed, loss, moment, say, sayOrHide, stateSign, stateWord,
} from "./words.js";

const MOST = 8; // runs compared at once; as many colours and dashes stay apart
const DASHES = ["none", "8 4", "2 4", "12 4 2 4", "4 4", "16 4", "8 4 2 4 2 4", "1 3"];

/** The table's columns: a heading, and what to say of a run. */
const COLUMNS = [
  ["preset", "Preset", (run) => run.preset ?? ""],
  ["base", "Base model", (run) => run.base_model ?? ""],
  ["method", "Method", (run) => run.method ?? ""],
  ["rows", "Rows", (run) => (run.rows === null ? "" : count(run.rows))],
  ["eval", "Eval loss", evalText],
  ["duration", "Duration", (run) => (run.seconds === null ? "" : duration(run.seconds))],
];

function evalText(run) {
  if (run.eval_loss === null) return run.base_eval_loss === null ? "" : loss(run.base_eval_loss);
  if (run.base_eval_loss === null) return loss(run.eval_loss);
  return `${loss(run.base_eval_loss)} → ${loss(run.eval_loss)}`;
}

function stepText(run) {
  if (run.state !== "running" || !run.max_steps) return "";
  return `step ${count(run.step)} of ${count(run.max_steps)}`;
}

/** Open a run here; a click with a modifier does what it does to any link. */
function openRun(event) {
  const modified = event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;
  if (modified || event.button !== 0 || !window.Tuner) return;
  event.preventDefault();
  window.Tuner.open(event.currentTarget.closest("[data-run]").dataset.run);
}

// Cards on a narrow screen change how rows and cells are displayed, which would take their
// meaning from them for screen readers; hence the roles.
function cell(name, label, ...children) {
  const attributes = { class: `tuner-cell-${name}`, role: "cell", "data-label": label };
  return h("td", attributes, ...children);
}

function makeRow(run, ticked) {
  const tick = h("input", {
    type: "checkbox", class: "tuner-tick", value: run.run, "aria-label": `compare ${run.name}`,
    change: ticked,
  });
  const href = `?run=${encodeURIComponent(run.run)}`;
  const link = h("a", { class: "tuner-run-link", href, click: openRun }, run.name);
  const state = h("span", { class: "tuner-state" },
    h("span", { class: "tuner-sign", "aria-hidden": "true" }),
    h("span", { class: "tuner-state-word" }));
  return h("tr", { class: "tuner-row", role: "row", "data-run": run.run },
    cell("tick", "", h("label", {}, tick)),
    cell("name", "Run", link),
    cell("state", "State", state, h("span", { class: "tuner-step" })),
    ...COLUMNS.map(([name, label]) => cell(name, label)),
    cell("spark", "Train loss"),
    cell("created", "Created"));
}

function fillRow(row, run) {
  const find = (name) => row.querySelector(`.tuner-cell-${name}`);
  const state = find("state");
  row.dataset.state = state.firstChild.dataset.state = run.state;
  row.title = run.reason ?? "";
  say(state.querySelector(".tuner-sign"), stateSign(run.state));
  say(state.querySelector(".tuner-state-word"), stateWord(run.state, run.position));
  sayOrHide(state.lastChild, stepText(run));
  for (const [name, , text] of COLUMNS) say(find(name), text(run));
  say(find("created"), moment(run.created));
  fillSpark(find("spark"), run.spark ?? []);
}

function fillSpark(place, values) {
  const key = values.join();
  if (place.dataset.values === key) return;
  place.dataset.values = key;
  place.replaceChildren(...(values.length > 1 ? [sparkline(values)] : []));
}

/** The list of runs as a table, or as cards where there is no room for one. */
function tableView(changed) {
  const body = h("tbody", { role: "rowgroup" });
  const heading = (text) => h("th", { scope: "col", role: "columnheader" }, text);
  const compare = h("th", { scope: "col", role: "columnheader", "aria-label": "compare" });
  const titles = ["Run", "State", ...COLUMNS.map(([, title]) => title), "Train loss", "Created"];
  const head = h("thead", { role: "rowgroup" },
    h("tr", { role: "row" }, compare, ...titles.map(heading)));
  const node = h("table", { class: "tuner-table", role: "table", hidden: true }, head, body);
  const ticks = () => [...body.querySelectorAll(".tuner-tick")];
  const ticked = () => ticks().filter((tick) => tick.checked).map((tick) => tick.value);
  function limit() {
    const full = ticked().length >= MOST;
    for (const tick of ticks()) tick.disabled = full && !tick.checked;
  }
  return {
    node,
    ticked,
    update(runs) {
      node.hidden = !runs.length;
      const make = (run) => makeRow(run, () => { limit(); changed(); });
      keyed(body, runs, (run) => run.run, make, fillRow);
      limit();
    },
  };
}

/** The curves of several runs over each other, and what differs in their settings. */
function compareView() {
  let runs = [];
  const train = new Chart({ title: "Train loss", height: 260 });
  const held = new Chart({ title: "Eval loss", height: 260, empty: "none of them was evaluated" });
  const controls = curveControls(draw);
  const names = h("p", { class: "tuner-muted", hidden: true });
  const body = h("tbody", { role: "rowgroup" });
  const head = h("tr", { role: "row" });
  const table = h("table", { class: "tuner-differs", role: "table" },
    h("thead", { role: "rowgroup" }, head), body);
  const node = h("section", { class: "tuner-section tuner-compare", hidden: true },
    h("div", { class: "tuner-curves-head" }, h("h3", {}, "Compared"), train.legend, controls.node),
    h("div", { class: "tuner-pair" },
      h("div", { class: "tuner-compare-train" }, h("h4", {}, "Train loss"), train.node),
      h("div", { class: "tuner-compare-eval" }, h("h4", {}, "Eval loss"), held.node)),
    h("h3", {}, "Only what differs"), names, table);
  function draw() {
    const { smoothing, log } = controls.get();
    train.show(runs.map((run, index) => series(run, index, run.loss)), { smoothing, log });
    const dotted = { dots: true, smooth: false };
    const evals = runs.map((run, index) => ({ ...series(run, index, run.eval_loss), ...dotted }));
    held.show(evals, { log });
  }
  return {
    node,
    update(answer) {
      ({ runs } = answer);
      node.hidden = false;
      draw();
      const { settings } = answer;
      table.hidden = !settings.length;
      sayOrHide(names, settings.length ? "" : "Nothing: these runs have the same settings.");
      const columns = ["Setting", ...runs.map((run, index) => `${letter(index)}  ${run.name}`)];
      head.replaceChildren(...columns.map((text) =>
        h("th", { scope: "col", role: "columnheader" }, text)));
      body.replaceChildren(...settings.map((setting) => settingRow(setting, columns)));
    },
  };
}

function letter(index) {
  return String.fromCharCode(65 + index);
}

function series(run, index, points) {
  return {
    name: `${letter(index)} ${run.run}`, label: run.name, mark: letter(index), points,
    spoken: `${letter(index)} ${run.name}`, color: `var(--tuner-series-${index + 1})`,
    dash: DASHES[index],
  };
}

function settingRow({ setting, values }, columns) {
  const cells = values.map((value, index) => {
    return h("td", { role: "cell", "data-label": columns[index + 1] }, value ?? "–");
  });
  const name = h("th", { scope: "row", role: "rowheader" }, setting);
  return h("tr", { role: "row", "data-setting": setting }, name, ...cells);
}

/** What the page says where there is no run yet. */
function emptyView() {
  const begin = () => {
    window.Tuner?.close();
    window.Tuner?.showTab("Fine-tune");
  };
  return h("div", { class: "tuner-empty", hidden: true },
    h("p", {}, "No runs yet. Each fine-tune will be listed here with its curve and its eval " +
      "loss; tick two or more to compare them."),
    h("button", { type: "button", class: "tuner-begin", click: begin }, "Set up a fine-tune"));
}

class TunerRuns extends HTMLElement {
  #runs = [];
  #shown = ""; // what the comparison shows, to ask again only when that has changed
  #comparing = null;
  #offline = h("p", { class: "tuner-offline", role: "status", hidden: true });
  #error = h("p", { class: "tuner-error", role: "alert", hidden: true });
  #empty = emptyView();
  #hint = h("p", { class: "tuner-hint tuner-muted", hidden: true });
  #table = tableView(() => this.#compare());
  #comparison = compareView();
  #poller = new Poller({
    element: this,
    ask: (signal) => this.#ask(signal),
    reached: (reached) => sayOrHide(this.#offline, reached ? "" :
      "The app cannot be reached. Runs go on by themselves; trying again."),
  });

  connectedCallback() {
    this.classList.add("tuner");
    this.replaceChildren(this.#offline, this.#error, this.#empty, this.#hint, this.#table.node,
      this.#comparison.node);
    this.#poller.start();
  }

  disconnectedCallback() {
    this.#poller.stop();
    this.#comparing?.abort();
  }

  async #ask(signal) {
    const { ok, body } = await ask("tuner/runs", signal);
    sayOrHide(this.#error, ok ? "" : body.error);
    if (ok) this.#update(body ?? []);
    const live = this.#runs.some((run) => LIVE.has(run.state));
    return { seen: live ? 2000 : 10000, unseen: 10000 };
  }

  #update(runs) {
    this.#runs = runs;
    this.#empty.hidden = runs.length > 0;
    this.#table.update(runs);
    this.#compare();
  }

  /** Compare what is ticked, where it is not what is shown already. */
  async #compare() {
    const ticked = this.#table.ticked();
    sayOrHide(this.#hint, this.#hintText(ticked.length));
    const chosen = this.#runs.filter((run) => ticked.includes(run.run));
    const key = chosen.map((run) => `${run.run} ${run.state} ${run.step}`).join();
    if (key === this.#shown) return;
    this.#shown = key;
    this.#comparing?.abort();
    if (chosen.length < 2) {
      this.#comparison.node.hidden = true;
      return;
    }
    this.#comparing = new AbortController();
    await this.#fetchComparison(chosen, this.#comparing.signal);
  }

  async #fetchComparison(chosen, signal) {
    const query = new URLSearchParams(chosen.map((run) => ["run", run.run]));
    try {
      const { ok, body } = await ask(`tuner/compare?${query}`, signal);
      sayOrHide(this.#error, ok ? "" : body.error);
      if (ok) this.#comparison.update(body);
    } catch {
      if (!signal.aborted) this.#shown = ""; // the next turn of the list tries again
    }
  }

  #hintText(ticked) {
    if (this.#runs.length < 2) return "";
    if (ticked >= MOST) return `${MOST} runs are compared below, the most at once.`;
    if (ticked === 1) return "Tick one more to compare.";
    return ticked ? "" : "Tick two or more to compare their curves and settings.";
  }
}

customElements.define("tuner-runs", TunerRuns);
