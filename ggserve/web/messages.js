// Draws the messages of a chat: text, thoughts, tool calls, images, errors, and the buttons below each.

import { splitThoughts, tokensPerSecond } from "./answer.js";
import { announce, copy, el, icon, iconButton } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { tokenView } from "./tokens.js";
import { citationView, confidenceView } from "./trust.js";

/** "24 tokens · 21.3 tokens/s · first after 0.21 s", as far as known. */
export function statsText(stats = {}) {
  const pace = tokensPerSecond(stats);
  return [
    stats.completion != null && `${stats.completion} ${stats.completion === 1 ? "token" : "tokens"}`,
    pace && `${pace.toFixed(1)} tokens/s`,
    stats.first != null && `first after ${stats.first.toFixed(2)} s`,
  ].filter(Boolean).join(" · ");
}

/** One message. `actions` are what its buttons do: edit(message, text), regenerate(), answerCalls(message, results). */
export class MessageView {
  #thoughts = null;
  #calls = null;
  #calledWith = "";
  #ended = false;

  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const name = { user: "You", assistant: "Assistant", tool: "Tool result" }[message.role];
    this.body = el("div", { class: "body", dir: "auto" });
    this.notes = el("div", { class: "notes" });
    this.foot = el("div", { class: "foot" });
    this.element = el("article", { class: `message ${message.role}`, "aria-label": name },
      el("h2", { class: "visually-hidden" }, name), this.body, this.notes, this.foot);
    this.markdown = new MarkdownView(this.body);
    if (message.role !== "assistant") this.#showPlain();
  }

  /** Draw changes. `running` is the answer that still fills this message, if any. */
  update(running, isLast) {
    this.element.classList.toggle("last", isLast);
    if (this.message.role !== "assistant") return;
    this.element.classList.toggle("running", Boolean(running));
    this.element.setAttribute("aria-busy", Boolean(running));
    if (running || !this.#ended) {
      const { thoughts, answer } = splitThoughts(this.message.content);
      this.#showThoughts([this.message.reasoning, thoughts].filter(Boolean).join("\n"), running && !answer.trim());
      this.markdown.update(answer, !running);
      this.#showProgress(running?.progress);
      this.#ended = !running;
      if (!running) this.#showEnd();
    }
    this.#showCalls(running, isLast);
  }

  #showPlain() {
    const { content, images = [] } = this.message;
    if (images.length) {
      this.body.append(el("div", { class: "images" }, ...images.map((src, i) => el("img", { src, alt: `Attached image ${i + 1}` }))));
    }
    this.body.append(el("div", { class: "plain" }, content));
    this.#showEnd();
  }

  #showThoughts(text, thinking) {
    if (!text) return;
    if (!this.#thoughts) {
      this.#thoughts = { summary: el("summary", {}), text: el("div", { class: "plain" }) };
      const box = el("details", { class: "thoughts" }, this.#thoughts.summary, this.#thoughts.text);
      this.element.insertBefore(box, this.body);
    }
    this.#thoughts.summary.textContent = thinking ? "Thinking…" : "Thoughts";
    this.#thoughts.text.textContent = text;
  }

  #showProgress(progress) {
    const text = progress && `Reading the prompt: ${progress.processed.toLocaleString()} of ${progress.total.toLocaleString()} tokens`;
    this.notes.replaceChildren(...(text ? [el("p", { class: "reading" }, text)] : []));
  }

  #showCalls(running, isLast) {
    const calls = this.message.tool_calls;
    const state = JSON.stringify([calls, Boolean(running), isLast]);
    if (!calls || state === this.#calledWith) return;
    this.#calledWith = state;
    this.#calls?.remove();
    const fields = calls.map(() => el("textarea", { rows: "2", "aria-label": "Result of this tool call", placeholder: "Result of this tool call" }));
    const cards = calls.map((call, index) => el("div", { class: "call" },
      el("div", { class: "call-name" }, icon("tool"), call?.function.name),
      el("pre", { tabindex: "0", role: "region", "aria-label": "Arguments" }, pretty(call?.function.arguments ?? "")),
      !running && isLast ? fields[index] : null));
    const send = () => this.actions.answerCalls(this.message, fields.map((field) => field.value));
    this.#calls = el("div", { class: "calls" }, ...cards,
      !running && isLast ? el("button", { type: "button", class: "button", onclick: send }, "Send the results") : null);
    this.element.insertBefore(this.#calls, this.notes);
  }

  #showEnd() {
    const { message } = this;
    if (message.error) this.notes.replaceChildren(el("p", { class: "error", role: "alert" }, icon("warning"), message.error));
    const copyButton = iconButton("Copy", "copy", () => copy(message.content, copyButton));
    const stats = [message.note, statsText(message.stats)].filter(Boolean).join(" ");
    this.foot.replaceChildren(
      el("span", { class: "stats" }, stats),
      copyButton,
      message.role === "tool" ? "" : iconButton("Edit", "edit", () => this.edit()),
      message.role === "assistant" ? iconButton("Regenerate", "redo", () => this.actions.regenerate(message)) : "",
      message.tokens?.length ? this.#panelButton("Tokens", "tokens", () => tokenView(message.tokens)) : "",
      message.citations?.length ? this.#panelButton("Citations", "search", () => citationView(message)) : "",
      message.fields ? this.#panelButton("Confidence", "check", () => confidenceView(message)) : "",
    );
  }

  /** A button that opens and closes a panel below the message. */
  #panelButton(label, iconName, panel) {
    const view = el("div", { hidden: true });
    const toggle = iconButton(label, iconName, () => {
      view.hidden = !view.hidden;
      toggle.setAttribute("aria-expanded", !view.hidden);
      if (!view.hidden) view.replaceChildren(panel());
    }, { "aria-expanded": "false" });
    this.foot.after(view);
    return toggle;
  }

  /** Replace the text with a field. */
  edit() {
    const isUser = this.message.role === "user";
    const field = el("textarea", { class: "edit", "aria-label": "Edit the message", dir: "auto" });
    field.value = this.message.content;
    const close = () => {
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.foot.querySelector("[aria-label=Edit]")?.focus();
    };
    const save = (event) => {
      event.preventDefault();
      close();
      if (field.value !== this.message.content || isUser) this.actions.edit(this.message, field.value);
    };
    const onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Escape") close();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && (isUser || event.ctrlKey || event.metaKey)) save(event);
    };
    field.addEventListener("keydown", onkeydown);
    const form = el("form", { class: "edit-form", onsubmit: save }, field, el("div", { class: "edit-buttons" },
      el("button", { type: "button", class: "button quiet", onclick: close }, "Cancel"),
      el("button", { class: "button" }, isUser ? "Send" : "Save")));
    this.body.replaceWith(form);
    this.foot.hidden = true;
    field.focus();
    announce(isUser ? "Editing. The messages after this one will be replaced." : "Editing");
  }
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
