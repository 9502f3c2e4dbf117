// The gallery: samples page by page, filtered.

import { get } from "./ask.js";
import { count, el, place, say, title, trouble } from "./dom.js";
import { countsOf, picture } from "./picture.js";

const PAGE = 48;
const FIRST_COUNT_S = 60;
const NO_SPLIT = "(none)";
const FILTERS = ["dataset", "category", "rule", "split", "sql"];

let known = []; // data sets, as counted when the gallery was open before
let choosing = null; // the filter that led to an address: it keeps the focus

export async function gallery(parameters, { signal }) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, parameters.get(name) ?? ""]));
  const shown = { boxes: parameters.get("boxes") !== "no", masks: parameters.get("masks") !== "no" };
  const list = el("ul", { class: "gallery", "aria-label": "Samples" });
  const progress = el("div", { class: "progress" });
  let form = filters(wanted, shown, known);
  const chosen = choosing?.hash === location.hash && document.querySelector("main form.filters");
  const view = el("div", {}, title("Gallery"), form, list, progress);
  fetchPage(list, progress, wanted, shown, null, signal);
  // What may be chosen comes with the counts, and nothing waits for those.
  choices(signal).then((found) => {
    known = found.datasets;
    const fresh = filters(wanted, shown, known);
    const at = form.contains(document.activeElement) ? document.activeElement.id : null;
    // What is being typed stays.
    if (fresh.textContent === form.textContent || at === "filter-sql") return;
    form.replaceWith(fresh);
    form = fresh;
    if (at) document.getElementById(at)?.focus();
  }).catch(() => {});
  return { view, title: "Gallery", focus: chosen ? choosing.id : null };
}

/** The counts as they are, or the first ones where a lake has not been counted yet. */
async function choices(signal) {
  const found = await get("datasets", {}, signal);
  return found.counted_at ? found : get("datasets", { wait_s: FIRST_COUNT_S }, signal);
}

function filters(wanted, shown, datasets) {
  const mine = datasets.filter((one) => !wanted.dataset || one.dataset === wanted.dataset);
  const names = (pick) => [...new Set(mine.flatMap(pick))];
  const form = el("form", { class: "filters", role: "search", "aria-label": "Filter samples",
    onsubmit: (event) => { event.preventDefault(); go(event.currentTarget); } },
    choice("dataset", "Data set", datasets.map((one) => one.dataset), wanted),
    choice("category", "Class", names((one) => one.classes.map((entry) => entry.category)), wanted),
    choice("rule", "Finding", names((one) => one.rules.map((entry) => entry.rule)), wanted),
    choice("split", "Split", names((one) => Object.keys(one.images_by_split)).map((name) => name || NO_SPLIT), wanted),
    el("div", { class: "wide" }, el("label", { for: "filter-sql" }, "SQL that gives dataset and sample (or stem)"),
      el("input", { id: "filter-sql", name: "sql", value: wanted.sql, autocomplete: "off", spellcheck: "false",
        placeholder: "SELECT dataset, sample FROM boxes WHERE area < 100" })),
    el("div", {}, check("boxes", "Boxes", shown.boxes), check("masks", "Masks", shown.masks)),
    el("div", {}, el("button", { type: "submit" }, "Show")));
  form.addEventListener("change", (event) => {
    if (event.target.name === "sql") return;
    go(form);
    choosing = { id: event.target.id, hash: location.hash };
  });
  return form;
}

function choice(name, label, options, wanted) {
  const every = wanted[name] && !options.includes(wanted[name]) ? [wanted[name], ...options] : options;
  const select = el("select", { id: `filter-${name}`, name }, el("option", { value: "" }, "all"),
    every.map((text) => el("option", { value: text, selected: text === wanted[name] }, text)));
  return el("div", {}, el("label", { for: `filter-${name}` }, label), select);
}

function check(name, label, on) {
  return el("label", { class: "check" }, el("input", { type: "checkbox", id: `filter-${name}`, name, checked: on }), label);
}

function go(form) {
  const data = new FormData(form);
  const next = Object.fromEntries(FILTERS.map((name) => [name, data.get(name)]));
  if (!data.has("boxes")) next.boxes = "no";
  if (!data.has("masks")) next.masks = "no";
  location.hash = place("gallery", next);
}

async function fetchPage(list, progress, wanted, shown, after, signal) {
  progress.replaceChildren(el("span", { class: "dim" }, "Looking…"));
  let cursor = after;
  let found = 0;
  try {
    // A page may be short because a rare thing is looked for: then it goes on until a page is full.
    do {
      const split = wanted.split === NO_SPLIT ? { split: "", no_split: true } : {};
      const page = await get("samples", { ...wanted, ...split, after: cursor, limit: PAGE - found, shapes: shown.masks }, signal);
      for (const sample of page.samples) list.append(card(sample, shown, list.children.length < 12));
      found += page.samples.length;
      cursor = page.next;
      if (cursor && found < PAGE) {
        const stop = el("button", { type: "button", class: "quiet", onclick: () => { found = PAGE; } }, "Stop");
        progress.replaceChildren(el("span", { class: "dim" }, `Looking on from ${JSON.parse(cursor)[1]}…`), stop);
      }
    } while (cursor && found < PAGE && !signal.aborted);
  } catch (error) {
    if (!signal.aborted) progress.replaceChildren(trouble(error));
    return;
  }
  const total = list.children.length;
  const more = el("button", { type: "button", onclick: () => fetchPage(list, progress, wanted, shown, cursor, signal) }, "More");
  progress.replaceChildren(cursor ? more : "", el("span", { class: "dim" },
    total ? `${count(total)} shown${cursor ? "" : ", that is all"}` : "No image is like that. (Findings may also be about files and labels without an image.)"));
  say(`${total} samples shown`);
}

function card(sample, shown, eager) {
  const counts = countsOf(sample).map(([name, boxes]) => `${boxes} ${name}`).join(", ");
  return el("li", {}, el("a", { href: place("sample", { dataset: sample.dataset, sample: sample.sample }) },
    el("div", { class: "frame" }, picture(sample, { shown, eager })),
    el("div", { class: "about" }, el("span", { class: "name", title: sample.sample }, sample.stem),
      el("span", { class: "dim" }, counts || (sample.labelled ? "no objects" : "not labelled"),
        sample.findings.length ? ` · ${sample.findings.length} finding${sample.findings.length > 1 ? "s" : ""}` : ""))));
}
