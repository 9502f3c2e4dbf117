// Batches as they come, and the quarantine.

import { get, post, token } from "./ask.js";
import { badge, count, el, link, moment, place, seconds, table, title, trouble } from "./dom.js";

export async function batches() {
  const found = await get("batches", { limit: 100 });
  const view = el("div", {}, title("Batches"), found.batches.length ? el("section", { class: "card" }, table(
    "The newest batches, newest first; this table follows what is committed", [
      { title: "batch", value: (row) => `${row.lane} ${row.number}` },
      { title: "state", value: (row) => badge(row.state) },
      { title: "planned", value: (row) => moment(row.planned_at) },
      { title: "took", number: true, value: (row) => seconds(row.planned_at, row.done_at) },
      ...["images", "labels", "annotations", "findings", "quarantined", "removed"].map((name) =>
        ({ title: name, number: true, value: (row) => count(row[name]) })),
    ], found.batches)) : el("p", {}, "No batch was committed yet."));
  return { view, title: "Batches", follows: ["batches"] };
}

let outcome = null; // of what was asked for last; a newer list does not take it away

export async function quarantine(parameters, { now, again }) {
  const [dataset, after] = [parameters.get("dataset"), parameters.get("after")];
  const found = await get("quarantine", { dataset, after });
  if (!again || !outcome) outcome = el("p", { role: "status" });
  const act = (action, body, what) => async () => {
    try {
      await post(`quarantine/${action}`, body, { withToken: true });
      outcome.replaceChildren(`The service was asked to ${action} ${what}.`);
    } catch (error) {
      outcome.replaceChildren(trouble(error), error.status === 401 ? " Give the token first (button above)." : "");
    }
  };
  const mayChange = now()?.may_change;
  const columns = [
    { title: "object", value: (row) => el("code", {}, row.key) },
    { title: "data set", value: (row) => row.dataset },
    { title: "why", value: (row) => row.error },
    { title: "batch", number: true, value: (row) => count(row.batch) },
    { title: "seen", value: (row) => moment(row.seen_at) },
  ];
  if (mayChange) {
    columns.push({ title: "actions", hidden: true, value: (row) => el("span", { class: "row" },
      el("button", { type: "button", "aria-label": `Retry ${row.key}`, onclick: act("retry", { keys: [row.key] }, row.key) }, "Retry"),
      el("button", { type: "button", class: "quiet", "aria-label": `Drop ${row.key}`, onclick: act("drop", { keys: [row.key] }, row.key) }, "Drop")) });
  }
  const view = el("div", {}, title("Quarantine"),
    el("p", { class: "dim" }, found.state === "looking" && !found.total ? "Looking…"
      : `${count(found.total)} objects cannot be read. They stop nothing: everything else is in the tables.`),
    mayChange && found.total ? el("p", { class: "row" },
      el("button", { type: "button", class: "quiet", onclick: act("retry", { all: true }, "all") }, "Retry all"),
      token.get() ? null : el("span", { class: "small dim" }, "Asks for the token.")) : null,
    outcome,
    found.objects.length ? el("section", { class: "card" }, table("Objects in quarantine", columns, found.objects)) : null,
    found.next ? el("p", {}, el("a", { href: place("quarantine", { dataset, after: found.next }) }, "More")) : null,
    dataset ? el("p", {}, link("Of all data sets", "quarantine")) : null);
  return { view, title: "Quarantine", follows: ["objects"], again: found.state === "looking" };
}
