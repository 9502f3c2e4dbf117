// Data sets: what they hold, what the gate says, how their classes are spread and drift.

import { get } from "./ask.js";
import { bar, legend, stacked } from "./charts.js";
import { badge, count, el, facts, link, moment, percent, table, title } from "./dom.js";

const MOST_CLASSES = 200;

export async function datasets() {
  const found = await get("datasets");
  const view = el("div", {}, title("Data sets"), counted(found));
  if (!found.datasets.length) {
    view.append(el("p", {}, found.state === "counting" && !found.counted_at
      ? "Counting for the first time; this page shows the counts when they are there."
      : "Nothing has been dropped yet."));
  }
  view.append(el("ul", { class: "cards" }, found.datasets.map((one) => el("li", { class: "card" },
    el("h2", {}, link(one.dataset, "dataset", { name: one.dataset }), " ", badge(one.gate)),
    facts([["images", count(one.images)], ["labelled", count(one.labelled_images)], ["boxes", count(one.boxes)],
      ["classes", count(one.classes.length)], ["in quarantine", count(one.quarantined)]]),
    shortBalance(one),
    el("p", {}, link("Gallery", "gallery", { dataset: one.dataset }))))));
  return { view, title: "Data sets", follows: ["objects", "annotations", "findings"], again: found.state === "counting" };
}

function shortBalance(one) {
  if (!one.classes.length) return null;
  const most = one.classes[0].share;
  return table(`Largest classes of ${one.dataset}`, [
    { title: "class", value: (row) => row.category },
    { title: "boxes", number: true, value: (row) => count(row.boxes) },
    { title: "share", number: true, value: (row) => percent(row.share) },
    { title: "bar", hidden: true, bar: true, value: (row) => bar(row.share / most, row.category) },
  ], one.classes.slice(0, 5));
}

export async function dataset(parameters) {
  const found = await get("datasets");
  const one = found.datasets.find((entry) => entry.dataset === parameters.get("name"));
  if (!one) {
    const name = parameters.get("name") ?? "";
    return { title: name, again: found.state === "counting", follows: ["objects"],
      view: el("div", {}, title(name), el("p", {}, found.state === "counting" ? "Counting…" : "There is no such data set.")) };
  }
  const view = el("div", {},
    title(one.dataset, " ", badge(one.gate)), counted(found),
    facts([["images", count(one.images)], ["labelled", count(one.labelled_images)],
      ["instances as delivered", count(one.delivered)], ["boxes after checks", count(one.boxes)],
      ["largest to smallest class", one.imbalance === null ? "–" : one.imbalance.toFixed(1)],
      ["entropy of the mix", one.entropy.toFixed(2)]]),
    el("p", { class: "row" }, link("Gallery", "gallery", { dataset: one.dataset }),
      one.quarantined ? link(`${count(one.quarantined)} in quarantine`, "quarantine", { dataset: one.dataset }) : null),
    el("div", { class: "halves" }, gate(one), findings(one), balance(one), splits(one), drift(one)));
  return { view, title: one.dataset, follows: ["objects", "annotations", "findings"], again: found.state === "counting" };
}

function gate(one) {
  return el("section", { class: "card" }, el("h2", {}, "Gate: ", badge(one.gate)),
    one.reasons.length ? el("ul", { class: "reasons" }, one.reasons.map((reason) => el("li", {}, reason)))
      : el("p", {}, "Nothing speaks against training on it."));
}

function findings(one) {
  return el("section", { class: "card" }, el("h2", {}, "Findings"),
    one.rules.length ? table("Rules that were broken", [
      { title: "rule", value: (row) => link(row.rule, "gallery", { dataset: one.dataset, rule: row.rule }) },
      { title: "severity", value: (row) => badge(row.severity) },
      { title: "findings", number: true, value: (row) => count(row.findings) },
      { title: "samples", number: true, value: (row) => count(row.samples) },
    ], one.rules) : el("p", {}, "No rule was broken."));
}

function balance(one) {
  const most = one.classes[0]?.share ?? 1;
  return el("section", { class: "card" }, el("h2", {}, "Classes"), table(
    `Boxes of each class${one.classes.length > MOST_CLASSES ? `, the first ${MOST_CLASSES} of ${one.classes.length}` : ""}; weights by effective number`, [
      { title: "class", value: (row) => link(row.category, "gallery", { dataset: one.dataset, category: row.category }) },
      { title: "boxes", number: true, value: (row) => count(row.boxes) },
      { title: "images", number: true, value: (row) => count(row.images) },
      { title: "share", number: true, value: (row) => percent(row.share) },
      { title: "weight", number: true, value: (row) => row.weight.toFixed(2) },
      { title: "bar", hidden: true, bar: true, value: (row) => bar(row.share / most, row.category) },
    ], one.classes.slice(0, MOST_CLASSES)));
}

function splits(one) {
  const names = Object.keys(one.images_by_split);
  const total = (name) => Object.values(one.splits[name] ?? {}).reduce((sum, boxes) => sum + boxes, 0);
  return el("section", { class: "card" }, el("h2", {}, "Splits"), table("Images and class shares of each split", [
    { title: "split", value: (name) => link(name || "none", "gallery", { dataset: one.dataset, split: name || "(none)" }) },
    { title: "images", number: true, value: (name) => count(one.images_by_split[name]) },
    ...one.classes.slice(0, 6).map((entry) => ({ title: entry.category, number: true,
      value: (name) => (total(name) ? percent((one.splits[name]?.[entry.category] ?? 0) / total(name)) : "") })),
  ], names));
}

function drift(one) {
  const classes = one.classes.map((entry) => entry.category);
  const shown = classes.slice(0, 12);
  return el("section", { class: "card" }, el("h2", {}, "Classes over time"),
    el("figure", {},
      stacked(`Class shares of ${one.drops.length} drops with their drift`, one.drops.map((drop) =>
        ({ title: `batch ${drop.batch}`, short: drop.batch, counts: drop.counts, line: drop.js_divergence })), classes),
      el("figcaption", { class: "small dim" }, "Shares of the classes in each batch that brought boxes, by number; ",
        "the line is the Jensen-Shannon divergence from all batches before."), legend(shown)),
    el("details", {}, el("summary", {}, "As a table"), table("Drops", [
      { title: "batch", value: (row) => row.batch },
      { title: "done", value: (row) => moment(row.done_at) },
      { title: "boxes", number: true, value: (row) => count(row.boxes) },
      { title: "drift", number: true, value: (row) => (row.js_divergence === null ? "–" : row.js_divergence.toFixed(3)) },
      ...shown.slice(0, 6).map((name) => ({ title: name, number: true, value: (row) => count(row.counts[name] ?? 0) })),
    ], one.drops)));
}

function counted(found) {
  return el("p", { class: "small dim" }, found.counted_at ? ["counted ", moment(found.counted_at)] : "",
    found.state === "counting" && found.counted_at ? "; newer commits are being counted" : "");
}
