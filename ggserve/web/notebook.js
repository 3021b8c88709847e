// The notebook: a text that the model continues, for base models and for experiments.

import { continueText } from "./answer.js";
import { connection } from "./connection.js";
import { announce, byId, el, icon, oncePerFrame } from "./dom.js";
import { statsText } from "./messages.js";
import { tokenView } from "./tokens.js";

const KEY = "ggserve.notebook";

export class Notebook {
  #running = null;
  #before = null; // the text before the last continuation

  /** `onUsage(stats)` is called when a continuation ends. */
  constructor(onUsage) {
    this.field = byId("text");
    this.field.value = localStorage.getItem(KEY) ?? "";
    this.onUsage = onUsage;
    this.field.addEventListener("input", () => this.#keep());
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.#continue();
    });
    byId("continue").addEventListener("click", () => this.#continue());
    byId("notebook-stop").addEventListener("click", () => this.stop());
    byId("undo").addEventListener("click", () => this.#undo());
    this.update();
  }

  stop() {
    this.#running?.stop();
  }

  get runs() {
    return this.#running !== null;
  }

  update() {
    byId("continue").hidden = this.runs;
    byId("continue").disabled = connection.state !== "ready";
    byId("notebook-stop").hidden = !this.runs;
    byId("undo").disabled = this.runs || this.#before === null;
  }

  async #continue() {
    if (this.runs || connection.state !== "ready") return;
    const prompt = this.field.value;
    let text = "";
    const draw = oncePerFrame(() => this.#show(prompt + text));
    this.#before = prompt;
    byId("notebook-notes").replaceChildren();
    const { running, ended } = continueText(prompt, (message) => {
      text = message.content;
      draw();
    });
    this.#running = running;
    this.field.readOnly = true;
    this.update();
    if (document.activeElement === document.body) byId("notebook-stop").focus();
    const message = await ended;
    this.#running = null;
    this.field.readOnly = false;
    this.#show(prompt + message.content);
    this.#keep();
    this.update();
    this.#showEnd(message);
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
    this.onUsage(message.stats);
  }

  #show(text) {
    if (this.field.value === text) return;
    this.field.value = text;
    this.field.scrollTop = this.field.scrollHeight;
  }

  #showEnd({ error, note, stats, tokens }) {
    announce(error ?? "The continuation is complete.");
    byId("notebook-notes").replaceChildren(...[
      error && el("p", { class: "error" }, icon("warning"), error),
      el("p", { class: "stats" }, [note, statsText(stats)].filter(Boolean).join(" ")),
      tokens?.length && tokenView(tokens),
    ].filter(Boolean));
  }

  #undo() {
    this.field.value = this.#before;
    this.#before = null;
    byId("notebook-notes").replaceChildren();
    this.#keep();
    this.update();
    this.field.focus();
  }

  #keep() {
    try {
      localStorage.setItem(KEY, this.field.value);
    } catch {
      // no room: the text lives as long as the page
    }
  }
}
