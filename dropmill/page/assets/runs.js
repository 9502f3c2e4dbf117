// Runs with their curves, and models with what they were made from.

import { get } from "./ask.js";
import { legend, lines } from "./charts.js";
import { badge, count, el, facts, link, moment, number, seconds, size, table, title } from "./dom.js";

export async function runs() {
  const { runs: found } = await get("runs");
  const measure = (row) => row.metrics.mAP50 ?? row.metrics.val_map50 ?? row.metrics.test_mAP50;
  const view = el("div", {}, title("Runs"), found.length ? el("section", { class: "card" }, table("Runs, newest first", [
    { title: "run", value: (row) => link(row.run, "run", { name: row.run }) },
    { title: "state", value: (row) => badge(row.state) },
    { title: "pipeline", value: (row) => row.pipeline },
    { title: "step", value: (row) => row.step },
    { title: "data set", value: (row) => row.dataset },
    { title: "images", number: true, value: (row) => count(row.labelled_images) },
    { title: "mAP50", number: true, value: (row) => (measure(row) === undefined ? "" : number(measure(row))) },
    { title: "submitted", value: (row) => moment(row.submitted_at) },
    { title: "took", number: true, value: (row) => seconds(row.submitted_at, row.ended_at) },
  ], found)) : el("p", {}, "Nothing was run yet."));
  return { view, title: "Runs", follows: ["runs"] };
}

/** What there is no such thing of is said in words, not as an error. */
function unlessThereIsNone(error) {
  if (error.status !== 404) throw error;
}

export async function run(parameters) {
  const name = parameters.get("name") ?? "";
  const [{ runs: every }, { models: made }, curves] = await Promise.all([get("runs", { run: name }),
    get("models", { run: name }), get("curves", { run: name }).catch(unlessThereIsNone)]);
  const found = name && every[0];
  if (!found) return { title: name, view: el("div", {}, title(name), el("p", {}, "There is no such run.")) };
  const view = el("div", {}, el("p", {}, link("Runs", "runs")), title(name, " ", badge(found.state)),
    facts([["pipeline", found.pipeline ?? "by hand"], ["step", found.step], ["data set", found.dataset],
      ["labelled images", count(found.labelled_images)], ["took", seconds(found.submitted_at, found.ended_at) || "–"]]),
    found.error ? el("p", { class: "error" }, found.error) : null,
    el("div", { class: "halves" }, ...charts(curves),
      pairs("Metrics", found.metrics), lineage(found.snapshot), pairs("Parameters", found.parameters), pairs("Outputs", found.outputs),
      made.length ? el("section", { class: "card" }, el("h2", {}, "Models"), files(made)) : null));
  return { view, title: name, follows: ["runs", "models"], refresh_s: found.state === "submitted" ? 5 : 0 };
}

/** Costs by themselves, measures between 0 and 1 together, everything else by its beginning. */
function charts({ epochs, curves }) {
  const groups = new Map();
  for (const [name, values] of Object.entries(curves)) {
    const key = /map|ap50|precision|recall|f1|iou/i.test(name) ? "measures" : /cost|loss/i.test(name) ? "costs"
      : /rate|lr/i.test(name) ? "learning rate" : name;
    if (!values.some((value) => value !== null)) continue;
    if (!groups.has(key)) groups.set(key, {});
    groups.get(key)[name] = values;
  }
  return [...groups].filter(([, series]) => epochs.length && Object.keys(series).length).map(([key, series]) =>
    el("section", { class: "card" }, el("h2", {}, key), el("figure", {},
      lines(`${key} over ${epochs.length} epochs: ${Object.keys(series).join(", ")}`, epochs, series), legend(Object.keys(series))),
    el("details", {}, el("summary", {}, "As a table"), table(`${key}, epoch by epoch`, [
      { title: "epoch", value: (place) => epochs[place] },
      ...Object.keys(series).map((name) => ({ title: name, number: true,
        value: (place) => (series[name][place] === null ? "" : number(series[name][place])) })),
    ], epochs.map((_, place) => place)))));
}

function pairs(name, object) {
  const rows = Object.entries(object);
  return rows.length ? el("section", { class: "card" }, el("h2", {}, name), table(name, [
    { title: "name", value: ([key]) => key },
    { title: "value", value: ([, value]) => (typeof value === "string" ? value : number(value)) },
  ], rows)) : null;
}

function lineage(snapshot) {
  const rows = Object.entries(snapshot);
  return rows.length ? el("section", { class: "card" }, el("h2", {}, "Made from"), table("Versions of the tables that it read", [
    { title: "table", value: ([key]) => key },
    { title: "version", number: true, value: ([, version]) => version },
    { title: "ask", hidden: true, value: ([key, version]) => (Number.isInteger(version)
      ? link("ask", "sql", { query: `SELECT * FROM ${key} AT (VERSION => ${version}) LIMIT 100` }) : "") },
  ], rows)) : null;
}

function rests(behind) {
  if (!behind) return null;
  const images = "SELECT DISTINCT dataset, sample FROM model_objects WHERE kind = 'image' AND model = "
    + `'${behind.model.replaceAll("'", "''")}'`;
  return el("section", { class: "card" }, el("h2", {}, "Lineage"), table("Runs that it rests on, the last step first", [
    { title: "run", value: (row) => link(row.run, "run", { name: row.run }) },
    { title: "step", value: (row) => row.step },
    { title: "state", value: (row) => badge(row.state ?? "unknown") },
    { title: "shards", number: true, value: (row) => count(row.shards) },
  ], behind.runs), behind.objects.length ? [table("Objects of the bucket that it was made from", [
    { title: "kind", value: (row) => row.kind },
    { title: "now", value: (row) => row.now },
    { title: "objects", number: true, value: (row) => count(row.objects) },
  ], behind.objects), el("p", {}, link("Its images in the gallery", "gallery", { sql: images }))]
    : el("p", { class: "dim" }, "Its runs did not note which objects they saw."));
}

export async function models() {
  const { models: found } = await get("models");
  const view = el("div", {}, title("Models"), found.length ? el("section", { class: "card" }, files(found)) : el("p", {}, "No model was made yet."));
  return { view, title: "Models", follows: ["models", "runs"] };
}

function files(found) {
  return table("Models, newest first", [
    { title: "model", value: (row) => link(row.model, "model", { name: row.model }) },
    { title: "kind", value: (row) => row.kind },
    { title: "state", value: (row) => (row.state ? badge(row.state) : "") },
    { title: "data set", value: (row) => row.dataset },
    { title: "made by", value: (row) => link(row.run, "run", { name: row.run }) },
    { title: "mAP50", number: true, value: (row) => (row.metrics.mAP50 === undefined ? "" : number(row.metrics.mAP50)) },
    { title: "size", number: true, value: (row) => size(row.size_bytes) },
    { title: "made", value: (row) => moment(row.made_at) },
  ], found);
}

export async function model(parameters) {
  const name = parameters.get("name") ?? "";
  const found = name && (await get("models", { model: name })).models[0];
  if (!found) return { title: "Models", view: el("div", {}, title("Models"), el("p", {}, "There is no such model.")) };
  // A lake of an older release has no word on it.
  const behind = await get("lineage", { model: found.model }).catch(() => null);
  const { models: beside } = await get("models", { run: found.run });
  const card = beside.some((one) => one.kind === "card") ? await get("card", { model: found.model }).catch(() => null) : null;
  const view = el("div", {}, el("p", {}, link("Models", "models")), title(found.model, " ", found.state ? badge(found.state) : null),
    facts([["kind", found.kind], ["architecture", found.architecture], ["data set", found.dataset], ["size", size(found.size_bytes)],
      ["labelled images", count(found.labelled_images)]]),
    el("p", {}, "Made by ", link(found.run, "run", { name: found.run }), found.run_state ? [" ", badge(found.run_state)] : null),
    el("p", { class: "small" }, el("code", {}, found.uri), el("br"), el("span", { class: "dim" }, `SHA-256 ${found.sha256 ?? "unknown"}`)),
    el("div", { class: "halves" }, rests(behind), lineage(found.snapshot), pairs("Metrics", found.metrics),
      el("section", { class: "card" }, el("h2", {}, "Classes"), el("p", {}, found.categories.join(", ") || "none"))),
    card ? el("details", { class: "card" }, el("summary", {}, "Model card: data, classes, measures, limits"), el("pre", {}, card.text)) : null);
  return { view, title: found.model, follows: ["models"] };
}
