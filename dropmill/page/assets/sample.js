// One sample, large, with everything that is said of it.

import { get } from "./ask.js";
import { badge, count, el, facts, link, number, size, table, title } from "./dom.js";
import { picture } from "./picture.js";

export async function sample(parameters) {
  const [dataset, name] = [parameters.get("dataset") ?? "", parameters.get("sample") ?? ""];
  const found = await get("sample", { dataset, sample: name });
  const holder = el("div", { class: "frame" });
  const shown = { boxes: true, masks: true };
  const draw = () => holder.replaceChildren(picture(found, { size: 1600, labels: true, shown, eager: true }));
  draw();
  const toggle = (part, label) => el("label", { class: "check" }, el("input", { type: "checkbox", checked: true,
    onchange: (event) => { shown[part] = event.target.checked; draw(); } }), label);
  const view = el("div", {},
    el("p", {}, link(dataset, "gallery", { dataset })), title(found.sample),
    el("div", { class: "sample" },
      el("div", {}, holder, el("p", { class: "row" }, toggle("boxes", "Boxes"), toggle("masks", "Masks"))),
      el("div", {},
        facts([["pixels", `${found.width} × ${found.height}`], ["file", size(found.size_bytes)],
          ["split", found.split ?? "none"], ["batch", count(found.batch)]]),
        el("p", { class: "small dim" }, el("code", {}, found.key)),
        objects(found, holder), problems(found))));
  return { view, title: found.sample };
}

function objects(found, holder) {
  if (!found.boxes.length) return el("p", {}, found.labelled ? "Labelled, without objects." : "Not labelled.");
  const light = (place, on) => holder.querySelector(`[data-box="${place}"]`)?.classList.toggle("lit", on);
  const region = table(`${found.boxes.length} objects${found.more_boxes ? `, ${count(found.more_boxes)} more are not shown` : ""}`, [
    { title: "class", value: (row) => [el("span", { class: "key", hue: row.category, "aria-hidden": "true" }), row.category ?? ""] },
    { title: "corners", value: (row) => [row.xmin, row.ymin, row.xmax, row.ymax].map((v) => (v === null ? "?" : number(v))).join(", ") },
    { title: "notes", value: (row) => notes(row) },
  ], found.boxes);
  region.querySelectorAll("tbody tr").forEach((row, place) => {
    row.addEventListener("pointerenter", () => { row.classList.add("lit"); light(place, true); });
    row.addEventListener("pointerleave", () => { row.classList.remove("lit"); light(place, false); });
  });
  return region;
}

function notes(row) {
  const said = [];
  if (row.ignore) said.push("ignored");
  if (row.iscrowd) said.push("crowd");
  if (row.corrected) said.push(`corrected${row.changes ? `: was ${row.changes}` : ""}`);
  if (row.score !== null) said.push(`score ${number(row.score)}`);
  if (row.mask) said.push("pseudo mask");
  else if (row.shape) said.push("outline as delivered");
  return said.join("; ");
}

function problems(found) {
  if (!found.findings.length) return el("p", { class: "dim" }, "No findings.");
  return table("Findings", [
    { title: "rule", value: (row) => link(row.rule, "gallery", { dataset: found.dataset, rule: row.rule }) },
    { title: "severity", value: (row) => badge(row.severity) },
    { title: "observed", value: (row) => row.observed },
    { title: "correction", value: (row) => row.correction ?? "none" },
  ], found.findings);
}
