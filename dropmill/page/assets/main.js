// The frame: which view is shown, and what has changed since.

import { get, token } from "./ask.js";
import { el, say, title, trouble } from "./dom.js";
import { dataset, datasets } from "./datasets.js";
import { gallery } from "./gallery.js";
import { sample } from "./sample.js";
import { batches, quarantine } from "./work.js";
import { model, models, run, runs } from "./runs.js";
import { sql } from "./console.js";
import { api } from "./reference.js";

const VIEWS = { "": datasets, dataset, gallery, sample, batches, quarantine, runs, run, models, model, sql, api };
const BELONGS = { dataset: "", sample: "gallery", run: "runs", model: "models" };
const LOOK_S = 3;

const main = document.getElementById("main");
let shown = null;
let leaving = new AbortController();
let now = null;

async function show({ again = false } = {}) {
  const [path, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const make = VIEWS[path];
  if (!again) {
    leaving.abort();
    leaving = new AbortController();
    mark(BELONGS[path] ?? path);
  }
  const { signal } = leaving;
  let found;
  try {
    found = make ? await make(new URLSearchParams(query ?? ""), { signal, again, now: () => now })
      : { view: el("div", {}, title("There is no such page")), title: "Not found" };
  } catch (error) {
    if (signal.aborted) return;
    // What was seen before is better than a word of trouble about a look at what is new.
    if (again) return;
    found = { view: el("div", {}, title("This cannot be shown"), trouble(error)), title: "Trouble", again: error.status === 503 };
  }
  if (signal.aborted) return;
  shown = { ...found, versions: now?.versions, at: performance.now() };
  const open = again ? [...main.querySelectorAll("details")].map((one) => one.open) : [];
  const held = again ? focused() : null;
  main.replaceChildren(found.view);
  main.querySelectorAll("details").forEach((one, place) => { one.open ||= Boolean(open[place]); });
  document.title = `${found.title} – Dropmill`;
  if (again) {
    if (held) (like(held) ?? main.querySelector("h1"))?.focus({ preventScroll: true });
  } else if (found.focus) {
    document.getElementById(found.focus)?.focus();
  } else {
    main.querySelector("h1")?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
}

/** What has the focus in the view, told by its name and its place among its likes; null where it is elsewhere. */
function focused() {
  const one = document.activeElement;
  return main.contains(one) && one !== main ? { tag: one.tagName, name: nameOf(one), place: likes(one.tagName, nameOf(one)).indexOf(one) } : null;
}

/** The same in the view as it is now. */
function like({ tag, name, place }) {
  const found = likes(tag, name);
  return found[place] ?? found[0];
}

function likes(tag, name) {
  return [...main.querySelectorAll(tag)].filter((one) => nameOf(one) === name);
}

function nameOf(one) {
  return one.id || one.getAttribute("aria-label") || one.textContent;
}

function mark(path) {
  for (const anchor of document.querySelectorAll("#nav a")) {
    if (anchor.hash.replace(/^#\/?/, "") === path) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
}

async function look() {
  const state = document.getElementById("state");
  try {
    now = await get("now");
    const how = now.service?.state;
    tell(state, how ? `${how}${now.service.reason ? `: ${now.service.reason}` : ""}` : "looking at a lake");
    state.className = `state ${how === "failing" ? "bad" : how === "serving" || !how ? "good" : "warn"}`;
    document.getElementById("lake").textContent = `Lake ${now.lake}`;
    document.getElementById("token").hidden = !now.may_change;
  } catch (error) {
    tell(state, error.status ? error.message : "no answer");
    state.className = "state bad";
    return;
  }
  const changed = shown?.versions && shown.follows?.some((name) => shown.versions[name] !== now.versions[name]);
  const due = shown?.refresh_s && performance.now() - shown.at > 1000 * shown.refresh_s;
  const busy = main.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
  if (shown && !shown.versions) shown.versions = now.versions;
  if ((changed || due || shown?.again) && !busy) {
    await show({ again: true });
    if (changed) say("The page shows newer numbers");
  }
}

/** Screen readers say whatever is put there, be it the same as before. */
function tell(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

async function keepLooking() {
  for (;;) {
    if (document.visibilityState === "visible") await look();
    await new Promise((done) => { setTimeout(done, 1000 * (shown?.again ? 1 : LOOK_S)); });
  }
}

function setUpToken() {
  const dialog = document.getElementById("token-dialog");
  const text = document.getElementById("token-text");
  document.getElementById("token").addEventListener("click", () => { text.value = token.get(); dialog.showModal(); });
  document.getElementById("token-cancel").addEventListener("click", () => dialog.close());
  document.getElementById("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(text.value.trim());
    dialog.close();
    say(token.get() ? "The token is kept" : "There is no token now");
  });
}

document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
window.addEventListener("hashchange", () => show());
setUpToken();
show();
keepLooking();
