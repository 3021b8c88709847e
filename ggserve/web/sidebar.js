// The list of chats: search, delete with undo, export and import; hidden on a phone.

import { byId, el, iconButton, toast } from "./dom.js";

const DAY = 86_400_000; // milliseconds
const narrow = matchMedia("(max-width: 50rem)");

export class Sidebar {
  constructor(chats, answers) {
    this.chats = chats;
    this.answers = answers;
    this.element = byId("sidebar");
    byId("search").addEventListener("input", () => this.draw());
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", ({ target }) => this.#import(target));
    for (const id of ["open-sidebar", "close-sidebar"]) byId(id).addEventListener("click", () => this.toggle());
    byId("shade").addEventListener("click", () => this.toggle(false));
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !narrow.matches) return;
      event.stopPropagation();
      this.toggle(false);
    });
    this.element.addEventListener("click", ({ target }) => target.closest("a") && narrow.matches && this.toggle(false));
    narrow.addEventListener("change", () => this.toggle(!narrow.matches, false));
    this.toggle(!narrow.matches, false);
    chats.addEventListener("change", () => this.draw());
    answers.addEventListener("end", () => this.draw());
  }

  toggle(open = document.body.classList.contains("folded"), focus = true) {
    document.body.classList.toggle("folded", !open);
    this.element.inert = !open;
    byId("main").inert = open && narrow.matches;
    byId("open-sidebar").setAttribute("aria-expanded", open);
    if (focus) byId(open ? "close-sidebar" : "open-sidebar").focus();
  }

  /** Draw the list; `current` is the chat that is shown. */
  draw(current = this.current) {
    this.current = current;
    const text = byId("search").value.trim();
    const found = this.chats.search(text);
    const groups = Map.groupBy(found, ({ chat }) => (text ? "Found" : age(chat.updated)));
    byId("chat-list").replaceChildren(...[...groups].map(([name, items]) => el("section", { "aria-label": name },
      el("h2", { class: "group" }, name), el("ul", {}, ...items.map((item) => this.#item(item))))));
    byId("no-chats").textContent = found.length ? "" : text ? "No chats match." : "Your chats will appear here. They stay in this browser.";
    byId("export").disabled = !this.chats.all.length;
  }

  #item({ chat, snippet }) {
    const isCurrent = chat.id === this.current?.id;
    const title = chat.title || "Untitled";
    return el("li", { class: isCurrent && "current" },
      el("a", { href: `#chat/${chat.id}`, "aria-current": isCurrent && "page" },
        el("span", { class: "title", dir: "auto" }, title),
        snippet && el("span", { class: "snippet", dir: "auto" }, snippet),
        this.answers.of(chat) && el("span", { class: "busy" }, el("span", { class: "visually-hidden" }, "is being answered"))),
      iconButton(`Delete “${title}”`, "trash", () => this.#remove(chat)));
  }

  #remove(chat) {
    this.answers.of(chat)?.stop();
    this.chats.remove(chat.id);
    toast("Chat deleted.", "Undo", () => this.chats.save(chat));
    byId("new-chat").focus();
  }

  #export() {
    const url = URL.createObjectURL(new Blob([this.chats.exported()], { type: "application/json" }));
    el("a", { href: url, download: `ggserve-chats-${new Date().toISOString().slice(0, 10)}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async #import(input) {
    try {
      const count = this.chats.import(await input.files[0].text());
      toast(count ? `${count} ${count === 1 ? "chat" : "chats"} imported.` : "Nothing new in this file.");
    } catch (error) {
      toast(error.message);
    }
    input.value = "";
  }
}

function age(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY) return "Yesterday";
  return time >= today - 6 * DAY ? "Last seven days" : "Earlier";
}
