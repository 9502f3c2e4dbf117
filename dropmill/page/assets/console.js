// The SQL console.

import { get, post } from "./ask.js";
import { count, el, link, say, table, title, trouble } from "./dom.js";

const EXAMPLES = {
  "Class balance": "SELECT dataset, category, boxes, images, round(share, 4) AS share\nFROM class_balance ORDER BY dataset, boxes DESC",
  "What is wrong": "SELECT dataset, rule, severity, count(*) AS findings\nFROM findings GROUP BY ALL ORDER BY findings DESC",
  "Smallest boxes": "SELECT dataset, sample, category, round(area, 1) AS area\nFROM boxes ORDER BY area LIMIT 50",
  "Crowded images": "SELECT dataset, sample, count(*) AS boxes\nFROM annotations GROUP BY ALL ORDER BY boxes DESC LIMIT 50",
  "Batches": "SELECT lane, number, state, images, annotations, done_at - planned_at AS took\nFROM batches ORDER BY planned_at DESC LIMIT 50",
};

export async function sql(parameters, { signal }) {
  const text = el("textarea", { id: "query", rows: 7, spellcheck: "false", autocomplete: "off",
    value: parameters.get("query") ?? sessionStorage.getItem("dropmill-query") ?? Object.values(EXAMPLES)[0] });
  const result = el("section", { "aria-label": "Answer" });
  const button = el("button", { type: "submit" }, "Run");
  const run = async () => {
    sessionStorage.setItem("dropmill-query", text.value);
    button.disabled = true;
    result.replaceChildren(el("p", { class: "dim" }, "Running…"));
    try {
      const found = await post("sql", { query: text.value }, { signal });
      result.replaceChildren(...answer(found, text.value));
      // The table itself would be read out from its first to its last row.
      say(`The answer is there: ${found.rows.length} rows${found.more ? ", and there are more" : ""}`);
    } catch (error) {
      if (!signal.aborted) result.replaceChildren(trouble(error));
    }
    button.disabled = false;
  };
  const form = el("form", { onsubmit: (event) => { event.preventDefault(); run(); } },
    el("label", { for: "query" }, "One SELECT over the tables and views, read only. Ctrl+Enter runs it."), text,
    el("p", { class: "row" }, button, el("button", { type: "button", class: "quiet", onclick: () => csv(text.value, result) }, "CSV"),
      el("label", { for: "examples", class: "visually-hidden" }, "Examples"),
      el("select", { id: "examples", onchange: (event) => {
        if (event.target.value) { text.value = EXAMPLES[event.target.value]; text.focus(); }
      } }, el("option", { value: "" }, "Examples"), Object.keys(EXAMPLES).map((name) => el("option", { value: name }, name)))));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  });
  const help = el("aside", { class: "card", "aria-label": "Tables and views" }, el("h2", {}, "Tables and views"), el("p", { class: "dim" }, "…"));
  get("tables", {}, signal).then(({ tables }) => {
    help.replaceChildren(el("h2", {}, "Tables and views"), ...tables.map((one) => el("details", {},
      el("summary", {}, el("code", {}, one.name)), el("p", { class: "small dim" }, one.about),
      el("pre", { class: "small" }, one.columns.map((column) => `${column.name} ${column.type}`).join("\n")))));
  }).catch((error) => { if (!signal.aborted) help.append(trouble(error)); });
  if (parameters.has("query")) run();
  return { view: el("div", {}, title("SQL"), el("div", { class: "console" }, el("div", {}, form, result), help)), title: "SQL" };
}

function answer(found, query) {
  const names = found.columns.map((column) => column.name);
  const inGallery = names.includes("dataset") && (names.includes("sample") || names.includes("stem"));
  const numeric = found.columns.map((column) => /int|float|double|decimal/.test(column.type) && !/list|struct/.test(column.type));
  return [
    el("p", { class: "row" }, el("span", { class: "dim" },
      `${count(found.rows.length)} row${found.rows.length === 1 ? "" : "s"}${found.more ? ", and there are more: CSV has all" : ""}, ${found.seconds} s`),
    inGallery ? link("Show in the gallery", "gallery", { sql: query.trim().replace(/;$/, "") }) : null),
    found.rows.length ? el("div", { class: "card" }, table("Answer", names.map((name, place) => ({
      title: name, number: numeric[place],
      value: (row) => (row[place] !== null && typeof row[place] === "object" ? JSON.stringify(row[place]) : row[place]),
    })), found.rows, { head: false })) : "",
  ];
}

async function csv(query, result) {
  try {
    const address = URL.createObjectURL(await post("sql.csv", { query }, { as: "blob" }));
    const anchor = el("a", { href: address, download: "answer.csv" });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  } catch (error) {
    result.replaceChildren(trouble(error));
  }
}
