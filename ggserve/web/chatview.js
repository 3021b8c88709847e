// The chat that is shown: its messages, kept in view as they grow, and the user's actions on them.

import { byId, announce, oncePerFrame } from "./dom.js";
import { MessageView } from "./messages.js";

const NEAR = 80; // pixels from the end within which the view follows new text

export class ChatView {
  #views = [];
  #follows = true;

  /** `onDraw` is called after each drawing. */
  constructor(chats, answers, onDraw) {
    this.chats = chats;
    this.answers = answers;
    this.list = byId("messages");
    this.scroller = byId("scroller");
    this.draw = oncePerFrame(() => {
      this.#draw();
      onDraw();
    });
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    byId("to-end").addEventListener("click", () => this.#toEnd());
    answers.addEventListener("change", ({ detail }) => {
      chats.save(detail.chat, { soon: true });
      if (detail.chat === this.chat) this.draw();
    });
    answers.addEventListener("end", ({ detail }) => {
      chats.save(detail.chat);
      if (detail.chat !== this.chat) return;
      this.draw();
      announce(detail.message.error ? "" : "The answer is complete.");
    });
  }

  show(chat) {
    this.chat = chat;
    this.#follows = true;
    this.draw();
  }

  /** Add a message of the user, and answer it. */
  send(content, images = []) {
    this.chat.messages.push({ role: "user", content, ...(images.length && { images }) });
    this.#answer();
  }

  /** Answer the chat again from the place of an answer. */
  regenerate(message) {
    this.#cut(message, 0);
    this.#answer();
  }

  edit(message, text) {
    message.content = text;
    if (message.role === "user") {
      this.#cut(message, 1);
      this.#answer();
    } else {
      delete message.tokens;
      this.chats.save(this.chat);
    }
    this.#forget(message);
    this.draw();
  }

  answerCalls(message, results) {
    results.forEach((content, index) => {
      this.chat.messages.push({ role: "tool", content, tool_call_id: message.tool_calls[index].id });
    });
    this.#answer();
  }

  /** Open the user's last message for editing. */
  editLast() {
    this.#views.findLast(({ message }) => message.role === "user")?.edit();
  }

  #cut(message, keep) {
    this.answers.of(this.chat)?.stop();
    const messages = this.chat.messages;
    messages.length = messages.indexOf(message) + keep;
  }

  #answer() {
    this.#follows = true;
    this.answers.start(this.chat);
    this.chats.touch(this.chat);
  }

  #forget(message) {
    this.#views = this.#views.filter((view) => view.message !== message || view.element.remove());
  }

  #draw() {
    const { messages } = this.chat;
    const running = this.answers.of(this.chat);
    const known = new Map(this.#views.map((view) => [view.message, view]));
    const actions = {
      edit: (message, text) => this.edit(message, text),
      regenerate: (message) => this.regenerate(message),
      answerCalls: (message, results) => this.answerCalls(message, results),
    };
    this.#views = messages.map((message) => known.get(message) ?? new MessageView(message, actions));
    this.#place(this.#views.map((view) => view.element));
    this.#views.forEach((view, index) => {
      const isLast = index === messages.length - 1;
      view.update(isLast && running, isLast);
    });
    if (this.#follows) this.#toEnd();
    this.#scrolled();
  }

  /** Keep existing elements in place, so that a screen reader reads only new ones. */
  #place(elements) {
    for (const old of [...this.list.children]) if (!elements.includes(old)) old.remove();
    elements.forEach((node, i) => node !== this.list.children[i] && this.list.insertBefore(node, this.list.children[i] ?? null));
  }

  #toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
    byId("to-end").hidden = this.#follows;
  }
}
