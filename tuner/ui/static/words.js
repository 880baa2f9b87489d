/**
 * Numbers, moments and states as people read them, and h(), say() and keyed(), which put them
 * into the page: always as text, since names, prompts, answers and reasons are other people's.
 */

const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
const COUNT = new Intl.NumberFormat("en-US");
const CLOCK = { hour: "2-digit", minute: "2-digit" };

/** States in which a run may change without anybody asking. */
export const LIVE = new Set(["queued", "preparing", "running"]);

/** The one word for each state, and a sign that tells them apart without colour. */
const STATES = {
  queued: ["○", "waiting in line"],
  preparing: ["◐", "preparing"],
  running: ["●", "training"],
  completed: ["✓", "completed"],
  stopped: ["■", "stopped"],
  failed: ["✕", "failed"],
  interrupted: ["▲", "interrupted"],
};

export function stateSign(state) {
  return STATES[state]?.[0] ?? "·";
}

/** "training"; for a queued run its place too. */
export function stateWord(state, position = 0) {
  const word = STATES[state]?.[1] ?? state ?? "";
  return state === "queued" && position > 0 ? `${word}, place ${position}` : word;
}

/** Two units at most: 112 → "1 min 52 s". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [size, large, smallSize, small] of UNITS) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / smallSize);
    return `${Math.floor(whole / size)} ${large}` + (rest ? ` ${rest} ${small}` : "");
  }
  return `${whole} s`;
}

/** Decimal units, in enough digits to decide: 6120000000 → "6.1 GB", 48000000 → "48 MB". */
export function bytes(count) {
  if (count >= 0.1e9) return `${(count / 1e9).toFixed(count < 1e9 ? 2 : 1)} GB`;
  if (count >= 0.95e6) return `${(count / 1e6).toFixed(count < 9.95e6 ? 1 : 0)} MB`;
  return count >= 950 ? `${Math.round(count / 1e3)} kB` : `${count} B`;
}

/** "1.2 of 4.5 GB", "48 MB of 4.5 GB", "1,200 of 5,000 rows", "1.2 GB" without a total. */
export function portion(done, total, unit) {
  const text = unit === "bytes" ? bytes : (value) => `${count(value)} ${unit}`;
  if (total === null || total === undefined) return text(done);
  const [figure, unitOfDone] = text(done).split(" ");
  const whole = text(total);
  return whole.endsWith(` ${unitOfDone}`) ? `${figure} of ${whole}` : `${text(done)} of ${whole}`;
}

export function count(value) {
  return COUNT.format(value);
}

/** A loss in the digits that move. */
export function loss(value) {
  if (value === null || value === undefined) return "–";
  return value >= 0.1 ? value.toFixed(2) : value.toFixed(4);
}

/** Three digits, as a power of ten where that is shorter: 0.0002 → "2e-4", 812.3 → "812". */
export function figure(value) {
  const size = Math.abs(value);
  if (size && size < 0.01) return value.toExponential(2).replace(/\.?0*e/, "e");
  if (size >= 100) return count(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

/** A moment, as near as it needs: "today 14:05", "12 Mar 14:05", "12 Mar 2025". */
export function moment(seconds, now = new Date()) {
  const then = new Date(seconds * 1000);
  const day = { day: "numeric", month: "short" };
  if (then.getFullYear() !== now.getFullYear()) {
    return then.toLocaleDateString("en-GB", { ...day, year: "numeric" });
  }
  const today = then.toDateString() === now.toDateString();
  const date = today ? "today" : then.toLocaleDateString("en-GB", day);
  return `${date} ${then.toLocaleTimeString("en-GB", CLOCK)}`;
}

/** The time of day of a log line. */
export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { ...CLOCK, second: "2-digit" });
}

/**
 * Make an element. Functions among the attributes listen to the event of that name, true sets an
 * attribute without a value, false and null leave it out; children are nodes or text.
 */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children);
  return node;
}

/** Set a node's text, and leave the node alone where it says so already. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The same, and hide the node where there is nothing to say. */
export function sayOrHide(node, text) {
  say(node, text);
  node.hidden = !text;
}

const children = new WeakMap(); // parent → its nodes by key

/**
 * Make a parent's children follow a list: nodes whose key stays are kept (so focus, ticks and
 * scrolling stay too), new ones are made, the others go. Nodes move only when the order changed.
 */
export function keyed(parent, items, key, make, fill = () => {}) {
  const before = children.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const id = key(item);
    const node = before.get(id) ?? make(item);
    fill(node, item);
    after.set(id, node);
  }
  for (const [id, node] of before) if (!after.has(id)) node.remove();
  let place = parent.firstElementChild;
  for (const node of after.values()) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  children.set(parent, after);
}

/** What this browser remembers of a choice; storage may be forbidden, then it is the default. */
export function recall(name, otherwise) {
  try {
    return localStorage.getItem(`tuner-${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`tuner-${name}`, value);
  } catch {
    // The choice holds until the page is left.
  }
}
