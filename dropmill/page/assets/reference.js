// The interface's documentation, made of its own OpenAPI document.

import { el, table, title } from "./dom.js";

export async function api() {
  const found = await (await fetch("/api/v1/openapi.json")).json();
  const schemas = found.components?.schemas ?? {};
  const view = el("div", {}, title("API"),
    el("p", {}, found.info.description ?? "", " The same as OpenAPI: ", el("a", { href: "/api/v1/openapi.json" }, "openapi.json"), "."));
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, one] of Object.entries(methods)) {
      view.append(el("details", { class: "card" },
        el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path), " ",
          el("span", { class: "dim" }, plain(one.description ?? one.summary).split("\n")[0])),
        el("p", {}, plain(one.description)),
        one.security ? el("p", {}, "Wants ", el("code", {}, "Authorization: Bearer TOKEN"), ".") : null,
        one.parameters?.length ? table("Parameters", [
          { title: "name", value: (row) => el("code", {}, row.name) },
          { title: "in", value: (row) => row.in },
          { title: "type", value: (row) => typeOf(row.schema) },
          { title: "default", value: (row) => (row.schema?.default === undefined ? "" : JSON.stringify(row.schema.default)) },
          { title: "required", value: (row) => (row.required ? "yes" : "") },
        ], one.parameters) : null,
        one.requestBody ? fields("Body", bodyOf(one.requestBody), schemas) : null,
        Object.entries(one.responses).map(([status, answer]) => el("div", {},
          el("p", {}, el("strong", {}, status), " ", answer.description ?? "", " ",
            el("code", {}, Object.keys(answer.content ?? {}).join(", "))),
          status.startsWith("2") ? fields(`Answer ${status}`, bodyOf(answer), schemas) : null))));
    }
  }
  view.append(el("h2", {}, "Parts of answers"), ...Object.entries(schemas).map(([name, one]) => el("details", {},
    el("summary", {}, el("code", {}, name), " ", el("span", { class: "dim" }, one.description ?? "")),
    properties(name, one))));
  return { view, title: "API" };
}

/** Descriptions mark code as docstrings do. */
function plain(text) {
  return (text ?? "").replaceAll("``", "");
}

function bodyOf(part) {
  return part?.content?.["application/json"]?.schema;
}

function fields(caption, schema, schemas) {
  const name = schema?.$ref?.split("/").at(-1);
  return name && schemas[name] ? properties(`${caption}: ${name}`, schemas[name]) : null;
}

function properties(caption, schema) {
  const rows = Object.entries(schema.properties ?? {});
  return rows.length ? table(caption, [
    { title: "field", value: ([name]) => el("code", {}, name) },
    { title: "type", value: ([, one]) => typeOf(one) },
    { title: "what", value: ([, one]) => plain(one.description) },
  ], rows) : null;
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.type === "array") return `list of ${typeOf(schema.items) || "anything"}`;
  return schema.type ?? "anything";
}
