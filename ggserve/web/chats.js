// The chats: created, saved, searched, exported, imported. Their messages have the API's form, and a few more
// fields: reasoning, stats, tokens (with probabilities), citations and documents, fields, error, note.

import { openStorage } from "./storage.js";
import { settings } from "./settings.js";

const ROLES = new Set(["user", "assistant", "tool"]);
const IMAGE = /^data:image\/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$/;
const FORMAT = "ggserve-chats";
const SAVE_PAUSE = 700; // milliseconds between two writes of a chat that is being answered

/** A new id: 16 hexadecimal digits. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Chats extends EventTarget {
  #chats = new Map();
  #storage;
  #timers = new Map();
  #tabs = "BroadcastChannel" in window ? new BroadcastChannel("ggserve") : null;

  /** Read the saved chats. Returns whether changes will be saved too. */
  async load() {
    this.#storage = await openStorage();
    for (const chat of await this.#storage.all()) this.#chats.set(chat.id, chat);
    this.#tabs?.addEventListener("message", ({ data }) => this.#reload(data));
    addEventListener("pagehide", () => this.#flush());
    return this.#storage.lasting;
  }

  get(id) {
    return this.#chats.get(id);
  }

  /** All chats, the latest first. */
  get all() {
    return [...this.#chats.values()].sort((a, b) => b.updated - a.updated);
  }

  /** Create an empty chat; the first `save` stores it. */
  create() {
    return { id: newId(), title: "", created: Date.now(), updated: Date.now(), system: settings.system ?? "", messages: [] };
  }

  /** Save a chat as it is now; `soon` waits a moment, so that a streamed answer is not written at each token. */
  save(chat, { soon = false } = {}) {
    const isNew = !this.#chats.has(chat.id);
    this.#chats.set(chat.id, chat);
    if (!soon) this.#write(chat);
    else if (!this.#timers.has(chat.id)) this.#timers.set(chat.id, setTimeout(() => this.#write(chat), SAVE_PAUSE));
    if (isNew || !soon) this.#changed(chat.id);
  }

  /** Mark a chat as the latest, name it after its first message, and save it. */
  touch(chat) {
    chat.updated = Date.now();
    chat.title ||= titleOf(chat);
    this.save(chat);
  }

  async remove(id) {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
    this.#chats.delete(id);
    this.#changed(id);
    await this.#storage.remove(id);
    this.#tabs?.postMessage(id);
  }

  /** Return the chats that contain all words of `text`, each with the place of the first. */
  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (const chat of this.all) {
      const texts = [chat.title, ...chat.messages.map((message) => message.content)];
      const all = texts.join("\n").toLowerCase();
      if (words.every((word) => all.includes(word))) found.push({ chat, snippet: words.length ? snippet(texts, words[0]) : "" });
    }
    return found;
  }

  /** Return the contents of an export: all chats, or the given ones. */
  exported(chats = this.all) {
    return JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), chats }, null, 1);
  }

  /** Add the chats of an export, except unchanged ones that exist already. Returns how many were added. Throws Error. */
  import(text) {
    let data;
    try {
      data = JSON.parse(text);
    } catch {
      throw new Error("This file is not JSON.");
    }
    if (data?.format !== FORMAT || !Array.isArray(data.chats)) throw new Error("This file contains no chats exported from this page.");
    let count = 0;
    for (const chat of data.chats.map(checked).filter((chat) => chat?.messages.length)) {
      const mine = this.#chats.get(chat.id);
      if (mine && JSON.stringify(checked(mine)) === JSON.stringify(chat)) continue;
      if (mine) chat.id = newId();
      this.save(chat);
      count += 1;
    }
    return count;
  }

  #write(chat) {
    clearTimeout(this.#timers.get(chat.id));
    this.#timers.delete(chat.id);
    this.#storage.put(chat).then(() => this.#tabs?.postMessage(chat.id),
      (error) => this.dispatchEvent(new CustomEvent("failed", { detail: error })));
  }

  #flush() {
    for (const id of this.#timers.keys()) this.#write(this.#chats.get(id));
  }

  /** Take over a chat that another tab has changed. */
  async #reload(id) {
    const theirs = await this.#storage.get(id);
    if (theirs) this.#chats.set(id, theirs);
    else this.#chats.delete(id);
    this.dispatchEvent(new CustomEvent("change", { detail: { id, elsewhere: true } }));
  }

  #changed(id) {
    this.dispatchEvent(new CustomEvent("change", { detail: { id, elsewhere: false } }));
  }
}

function titleOf(chat) {
  const first = chat.messages.find((message) => message.role === "user");
  const line = first?.content.trim().split("\n")[0] || (first?.images?.length ? "An image" : "");
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

function snippet(texts, word) {
  for (const text of texts.slice(1)) {
    const at = text.toLowerCase().indexOf(word);
    if (at >= 0) return (at > 20 ? "…" : "") + text.slice(Math.max(0, at - 20), at + 60).replace(/\s+/g, " ");
  }
  return "";
}

/** Return a chat from a file with only its known fields; null if it is not a chat. */
function checked(chat) {
  if (typeof chat !== "object" || chat === null || !Array.isArray(chat.messages)) return null;
  const time = (value) => (Number.isFinite(value) ? value : Date.now());
  return {
    id: /^[0-9a-f]{16}$/.test(chat.id) ? chat.id : newId(),
    title: textOf(chat.title).slice(0, 200),
    created: time(chat.created),
    updated: time(chat.updated),
    system: textOf(chat.system),
    messages: chat.messages.filter((message) => ROLES.has(message?.role)).map(checkedMessage),
  };
}

function checkedMessage(message) {
  const kept = { role: message.role, content: textOf(message.content) };
  for (const name of ["reasoning", "error", "note", "model", "tool_call_id"]) {
    if (message[name]) kept[name] = textOf(message[name]);
  }
  const images = list(message.images).filter((image) => IMAGE.test(image));
  if (images.length) kept.images = images;
  const calls = list(message.tool_calls).map((call) => ({
    id: textOf(call?.id), type: "function",
    function: { name: textOf(call?.function?.name), arguments: textOf(call?.function?.arguments) },
  }));
  if (calls.length) kept.tool_calls = calls;
  const tokens = list(message.tokens).map(checkedToken);
  if (tokens.length) kept.tokens = tokens;
  if (message.stats && typeof message.stats === "object") {
    kept.stats = Object.fromEntries(Object.entries(message.stats).filter(([, value]) => Number.isFinite(value)));
  }
  return kept;
}

function checkedToken(token) {
  const top = list(token?.top).map((other) => ({ token: textOf(other?.token), logprob: Number(other?.logprob) }));
  return { token: textOf(token?.token), logprob: Number(token?.logprob), top };
}

function textOf(value) {
  return typeof value === "string" ? value : "";
}

function list(value) {
  return Array.isArray(value) ? value : [];
}
