// Elements are made here, and texts only ever become text.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes, `on…` listeners, `hue` for the colour of a class; children are nodes or texts. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "hue") node.style.setProperty("--hue", hueOf(value));
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

const KEPT = "dropmill-classes";
const MOST_KEPT = 500;
let known = null;

/** The hue of a class: far from those of the classes seen before it, and the same on every view. */
export function hueOf(name) {
  if (known === null) {
    try {
      known = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    } catch {
      known = [];
    }
    if (!Array.isArray(known)) known = [];
  }
  let place = known.indexOf(String(name));
  if (place < 0) {
    place = known.push(String(name)) - 1;
    if (place < MOST_KEPT) localStorage.setItem(KEPT, JSON.stringify(known));
  }
  // The golden angle: each new one falls into the widest gap.
  return Math.round((165 + place * 137.508) % 360);
}

/** A table with its caption. Columns: {title, value(row) -> node or text, number, bar}. */
export function table(caption, columns, rows, { head = true } = {}) {
  const body = el("tbody");
  for (const row of rows) {
    body.append(
      el("tr", {}, columns.map((column, place) => {
        const rowHead = head && place === 0;
        return el(rowHead ? "th" : "td",
          { class: column.number ? "number" : column.bar ? "bar" : null, scope: rowHead ? "row" : null },
          shown(column.value(row)));
      })),
    );
  }
  const titles = columns.map((one) => el("th", { scope: "col", class: one.number ? "number" : null },
    one.hidden ? el("span", { class: "visually-hidden" }, one.title) : one.title));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, titles)), body));
}

function shown(value) {
  if (value === null || value === undefined) return "";
  return value instanceof Node || Array.isArray(value) ? value : String(value);
}

export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, shown(value)))));
}

const BADGES = {
  pass: "good", done: "good", succeeded: "good", serving: "good", warn: "warn", warning: "warn", planned: "warn",
  submitted: "warn", running: "warn", current: "good", stopped: "warn", rejected: "bad", fail: "bad", failed: "bad", error: "bad", quarantined: "bad",
};

export function badge(text) {
  return el("span", { class: `badge ${BADGES[text] ?? "plain"}` }, text);
}

export function link(text, path, parameters = {}) {
  return el("a", { href: place(path, parameters) }, text);
}

/** The address of a view of this page. */
export function place(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

const whole = new Intl.NumberFormat("en");
export const count = (value) => (value === null || value === undefined ? "" : whole.format(value));
export const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
export const size = (bytes) => {
  if (bytes === null || bytes === undefined) return "";
  const steps = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  let left = bytes;
  while (left >= 1000 && step < steps.length - 1) { left /= 1000; step += 1; }
  return `${step ? left.toFixed(1) : left} ${steps[step]}`;
};
export const moment = (text) => {
  if (!text) return "";
  const at = new Date(text);
  return el("time", { datetime: text, title: at.toISOString() },
    at.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }));
};
export const seconds = (from, to) => (from && to ? `${((new Date(to) - new Date(from)) / 1000).toFixed(1)} s` : "");
export const number = (value) =>
  typeof value === "number" ? String(Number(value.toPrecision(5))) : typeof value === "object" ? JSON.stringify(value) : String(value);

export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A heading that takes the focus when a view opens. */
export function title(text, ...more) {
  return el("h1", { tabindex: "-1" }, text, ...more);
}

export function trouble(error) {
  return el("p", { class: "error", role: "alert" }, error.message ?? String(error));
}
