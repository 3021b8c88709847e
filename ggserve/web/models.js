// The models dialog: lists models with their state and memory; loads, unloads, and pulls from the hub.

import { getJSON, postJSON, streamLines } from "./api.js";
import { connection } from "./connection.js";
import { announce, byId, el } from "./dom.js";

const dialog = byId("models-dialog");
const PAUSE = 1000; // milliseconds between two polls while the dialog is open
const KINDS = { generation: "text", embeddings: "embeddings", rerank: "reranker" };

let timer;
let pulling = null; // the AbortController of a download

function size(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.max(1, Math.round(bytes / 1e6))} MB`;
}

async function refresh() {
  clearTimeout(timer);
  if (!dialog.open) return;
  try {
    draw(await getJSON("models"));
    tell("");
  } catch (error) {
    tell(error.message);
  }
  timer = setTimeout(refresh, PAUSE);
}

function draw({ data, memory, manages }) {
  byId("memory-text").textContent = `${size(memory.used)} of ${size(memory.limit)} of memory used by models`;
  byId("memory-bar").value = Math.min(1, memory.used / memory.limit);
  byId("pull").hidden = !manages;
  const focused = document.activeElement?.dataset.model;
  byId("model-list").replaceChildren(...data.map(row));
  if (focused) byId("model-list").querySelector(`[data-model="${CSS.escape(focused)}"]`)?.focus();
}

function row({ id, kind, size: bytes, memory, status, pinned }) {
  const loaded = status.value === "loaded";
  const busy = status.value === "loading";
  const facts = [KINDS[kind], `${size(bytes)} on disk`, pinned && "pinned", loaded && memory && `${size(memory)} in memory`];
  const action = loaded ? "Unload" : "Load";
  return el("li", { class: "model-row" },
    el("div", {},
      el("span", { class: "model-title" }, id),
      el("span", { class: "hint" }, facts.filter(Boolean).join(" · ")),
      status.error && el("span", { class: "problem" }, status.error)),
    busy
      ? el("progress", { max: 1, value: status.progress || null, "aria-label": `Loading of ${id}` })
      : el("button", { type: "button", class: "button quiet", "data-model": id, "aria-label": `${action} ${id}`,
        onclick: () => act(action, id) }, action));
}

async function act(action, id) {
  const work = postJSON(`models/${action.toLowerCase()}`, { model: id });
  refresh();
  try {
    await work;
    announce(`${id}: ${action.toLowerCase()}ed`);
  } catch (error) {
    tell(error.message);
    return;
  }
  await refresh();
  connection.refresh();
}

async function pull(event) {
  event.preventDefault();
  if (pulling) return pulling.abort();
  const name = byId("pull-name").value.trim();
  if (!name) return;
  pulling = new AbortController();
  drawPull("Contacting the hub", null);
  try {
    for await (const { status, total, completed, error } of streamLines("api/pull", { model: name }, pulling.signal)) {
      if (error) throw new Error(error);
      drawPull(total ? `${size(completed)} of ${size(total)}` : status, total ? completed / total : null);
    }
    drawPull("Done", 1);
    announce(`${name} is here`);
    byId("pull-name").value = "";
  } catch (error) {
    drawPull(pulling.signal.aborted ? "Stopped. The next pull continues here." : error.message, null, true);
  } finally {
    pulling = null;
    byId("pull-button").textContent = "Pull";
    refresh();
    connection.refresh();
  }
}

function drawPull(text, part, ended = false) {
  byId("pull-state").textContent = text;
  byId("pull-bar").hidden = ended;
  if (part === null) byId("pull-bar").removeAttribute("value");
  else byId("pull-bar").value = part;
  byId("pull-button").textContent = "Stop";
}

function tell(text) {
  if (byId("models-problem").textContent !== text) byId("models-problem").textContent = text;
}

/** Set up the dialog. */
export function setUpModels() {
  byId("open-models").addEventListener("click", () => {
    dialog.showModal();
    refresh();
  });
  byId("pull").addEventListener("submit", pull);
  dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
}
