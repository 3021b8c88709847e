// The page: creates its parts, connects them, and follows the address (#chat/ID, #notebook).

import { Answers } from "./answer.js";
import { Chats } from "./chats.js";
import { ChatView } from "./chatview.js";
import { Composer } from "./composer.js";
import { connection } from "./connection.js";
import { openSettings, setUpSettings } from "./dialog.js";
import { byId, el, toast } from "./dom.js";
import { setUpModels } from "./models.js";
import { Notebook } from "./notebook.js";
import { change, onChange } from "./settings.js";
import { Sidebar } from "./sidebar.js";

const chats = new Chats();
const answers = new Answers();
const view = new ChatView(chats, answers, drawChat);
const sidebar = new Sidebar(chats, answers);
const notebook = new Notebook(showUse);
const composer = new Composer({ send, stop, editLast: () => view.editLast() });

function send(text, images) {
  view.send(text, images);
  history.replaceState(null, "", `#chat/${view.chat.id}`);
  drawPlace();
}

function stop() {
  answers.of(view.chat)?.stop();
  notebook.stop();
}

/** Show the view that the address names; an unknown chat becomes a new one. */
function follow() {
  const isNotebook = location.hash === "#notebook";
  if (!isNotebook) {
    const chat = chats.get(location.hash.replace("#chat/", "")) ?? chats.create();
    if (chat !== view.chat) view.show(chat);
  }
  byId("chat-view").hidden = isNotebook;
  byId("notebook-view").hidden = !isNotebook;
  drawPlace();
  field().focus();
}

function field() {
  return location.hash === "#notebook" ? notebook.field : composer.field;
}

function drawPlace() {
  const place = location.hash === "#notebook" ? "notebook" : "chat";
  for (const name of ["chat", "notebook"]) byId(`${name}-tab`).setAttribute("aria-current", name === place ? "page" : "false");
  byId("chat-tab").href = chats.get(view.chat.id) ? `#chat/${view.chat.id}` : "#";
  sidebar.draw(view.chat);
}

function drawChat() {
  const { chat } = view;
  const running = answers.of(chat);
  const last = chat.messages.findLast((message) => message.stats?.prompt);
  byId("empty").hidden = chat.messages.length > 0;
  byId("to-end").hidden ||= !chat.messages.length;
  document.title = chat.title ? `${chat.title} · ggserve` : "ggserve";
  composer.update(Boolean(running));
  showUse(last?.stats, running?.pace);
}

/** Show how full the context is after an answer, and the speed of a running one. */
function showUse(stats, pace = null) {
  const used = (stats?.prompt ?? 0) + (stats?.completion ?? 0);
  const all = connection.contextLength;
  byId("use").hidden = !used || !all;
  if (used && all) {
    byId("use-bar").value = used / all;
    byId("use-text").textContent = `${used.toLocaleString("en")} of ${all.toLocaleString("en")} tokens of context`;
  }
  byId("pace").textContent = pace ? `about ${pace.toFixed(0)} tokens/s` : "";
}

function drawConnection() {
  const { state, progress, message, models, model } = connection;
  const words = {
    connecting: "", ready: connection.fallback && `The GPU is used less than it should be: ${connection.fallback}`,
    loading: progress === null ? "The model is loading." : `The model is loading: ${Math.floor(progress * 100)} %`,
    down: "The server does not respond. Reconnecting; you can still read your chats.",
    locked: "This server requires an API key.",
  }[state];
  byId("connection").hidden = !words;
  byId("connection").dataset.state = state;
  if (byId("connection-text").textContent !== words) byId("connection-text").textContent = words;
  byId("connection").title = message;
  byId("loading").hidden = state !== "loading";
  if (progress === null) byId("loading").removeAttribute("value");
  else byId("loading").value = progress;
  byId("give-key").hidden = state !== "locked";
  drawModels(models, model);
  composer.update();
  notebook.update();
  drawChat();
}

function drawModels(models, model) {
  const name = model?.id ?? "";
  byId("model-name").textContent = name;
  byId("empty-title").textContent = name ? `Chat with ${name}` : "ggserve";
  byId("model-name").hidden = models.length > 1;
  byId("models").hidden = models.length < 2;
  const ids = models.map(({ id }) => id);
  if ([...byId("models").options].map((option) => option.value).join("\n") !== ids.join("\n")) {
    byId("models").replaceChildren(...ids.map((id) => el("option", { value: id }, id)));
  }
  byId("models").value = name;
}

function setUpKeys() {
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
    const isField = event.target.closest("input, textarea, select, dialog");
    if (event.key === "/" && !isField && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      field().focus();
    }
  });
  byId("skip").addEventListener("click", () => field().focus());
}

function setUpChats() {
  byId("new-chat").addEventListener("click", () => (location.hash ? (location.hash = "") : follow()));
  byId("examples").addEventListener("click", ({ target }) => {
    if (target.closest("button")) composer.fill(target.closest("button").textContent);
  });
  chats.addEventListener("change", ({ detail }) => {
    if (detail.id !== view.chat.id) return;
    if (!chats.get(detail.id)) location.hash = ""; // it was deleted
    else if (detail.elsewhere && !answers.of(view.chat)) view.show(chats.get(detail.id));
  });
  chats.addEventListener("failed", () => toast("This browser cannot save the chat: its storage is full or blocked."));
}

function setUpConnection() {
  byId("give-key").addEventListener("click", () => openSettings("key"));
  byId("models").addEventListener("change", ({ target }) => change({ model: target.value }));
  onChange(drawConnection);
  connection.addEventListener("change", drawConnection);
  connection.start();
}

async function start() {
  const lasting = await chats.load();
  if (!lasting) toast("This browser saves nothing on this page: export your chats before you leave.");
  view.show(chats.create());
  setUpSettings({
    system: () => view.chat.system,
    setSystem(text) {
      view.chat.system = text;
      if (view.chat.messages.length) chats.save(view.chat);
    },
  });
  setUpModels();
  setUpKeys();
  setUpChats();
  addEventListener("hashchange", follow);
  follow();
  setUpConnection();
}

start();
