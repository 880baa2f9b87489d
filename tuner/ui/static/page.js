/**
 * The page around the app's elements: which run is open and the address that says so, the theme,
 * the tabs, and the line that tells of a run in progress.
 *
 *     Tuner.open(id)  Tuner.close()  Tuner.current()  Tuner.toggleTheme()  Tuner.showTab("Runs")
 *
 * For the style sheet, <body> has data-view "form" or "run", and of the run that is shown
 * data-run-state, data-run-resumable, data-run-adapter, data-run-model, data-run-stop-asked,
 * data-run-public and data-run-mine (whether who looks at it may change it).
 */

import { LIVE, count, h, recall, remember, say, stateWord } from "./words.js";
import { Poller, ask } from "./run.js";
import "./runs.js";

let shown = "";

window.Tuner = { open, close, current: () => shown, toggleTheme, showTab };

/** Show a run, and put it into the address. */
function open(id) {
  address(id);
  show(id);
  showTab("Fine-tune");
}

/** Back to the form. The run goes on. */
function close() {
  address("");
  show("");
}

function show(id) {
  const { dataset } = document.body;
  if (id !== shown) tell({});
  shown = id;
  dataset.view = id ? "run" : "form";
  for (const element of document.querySelectorAll("tuner-run")) element.setAttribute("run", id);
  note.now();
}

/** What the style sheet shows and hides the page's buttons by. */
function tell({ state, resumable, hasAdapter, hasModel, stopAsked, isPublic, mayChange }) {
  Object.assign(document.body.dataset, {
    runState: state ?? "",
    runResumable: Boolean(resumable),
    runAdapter: Boolean(hasAdapter),
    runModel: Boolean(hasModel),
    runStopAsked: Boolean(stopAsked),
    runPublic: Boolean(isPublic),
    runMine: Boolean(mayChange),
  });
}

function runInAddress() {
  return new URLSearchParams(location.search).get("run") ?? "";
}

function address(id) {
  if (id === runInAddress()) return;
  const url = new URL(location.href);
  if (id) url.searchParams.set("run", id);
  else url.searchParams.delete("run");
  history.pushState(history.state, "", url);
}

function followAddress() {
  const id = runInAddress();
  show(id);
  if (id) showTab("Fine-tune");
}

/** Choose one of Gradio's tabs by its name; nothing happens where there is none of that name. */
function showTab(name) {
  const tabs = document.querySelectorAll('[role="tablist"] button');
  [...tabs].find((tab) => tab.textContent.trim() === name)?.click();
}

/** Dark or light as chosen here; what Gradio took from the system until then. */
function applyTheme() {
  const theme = recall("theme", "");
  const dark = theme === "dark";
  if (theme && document.body.classList.contains("dark") !== dark) {
    document.body.classList.toggle("dark", dark);
  }
}

function toggleTheme() {
  remember("theme", document.body.classList.contains("dark") ? "light" : "dark");
  const before = document.body.classList.contains("dark");
  document.body.classList.toggle("dark", !before);
}

/** The line about a run in progress, for who comes back to the form. */
async function noteLive(signal) {
  const place = document.getElementById("tuner-live");
  const pause = { seen: 10000, unseen: 60000 };
  if (place && shown) place.hidden = true;
  if (!place || shown) return pause;
  const { ok, body } = await ask("tuner/runs", signal);
  const live = ok ? body.filter((run) => LIVE.has(run.state)) : [];
  const first = live.find((run) => run.state === "running") ?? live[0];
  place.hidden = !first;
  if (first) fillNote(place, first);
  return pause;
}

function fillNote(place, run) {
  const step = run.state === "running" && run.max_steps
    ? `, step ${count(run.step)} of ${count(run.max_steps)}` : "";
  if (place.dataset.run !== run.run) {
    const href = `?run=${encodeURIComponent(run.run)}`;
    const link = h("a", { href, click(event) {
      if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      open(run.run);
    } }, "Watch it");
    place.replaceChildren(h("span"), " ", link);
    place.dataset.run = run.run;
  }
  say(place.firstChild, `${run.name} is ${stateWord(run.state, run.position)}${step}.`);
}

const note = new Poller({ ask: noteLive });

applyTheme();
// Gradio sets the class by the system's preference when it mounts, and when that changes.
new MutationObserver(applyTheme).observe(document.body, { attributeFilter: ["class"] });
addEventListener("popstate", followAddress);
document.addEventListener("tuner-run", (event) => event.detail.run === shown && tell(event.detail));
// Gradio puts its elements into the page after this module has run, and may do so again.
document.addEventListener("tuner-ready", (event) => {
  if (event.target.run !== shown) event.target.setAttribute("run", shown);
});
note.start();
followAddress();
