// Markdown to elements, safely: marked parses, DOMPurify keeps a short list of tags, raw HTML is shown as text, images
// become links (fetching one would reveal the chat to a third party). While a text grows, only its last blocks are redrawn.

import { Marked } from "./vendor/marked.js";
import "./vendor/purify.js";
import { copy, el, iconButton } from "./dom.js";
import { highlight } from "./highlight.js";
import { BoundedLexer, tokenizer } from "./lexer.js";

const purify = globalThis.DOMPurify;
const RULES = {
  ALLOWED_TAGS: [
    "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "kbd", "li", "ol", "p",
    "pre", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul",
  ],
  ALLOWED_ATTR: ["align", "data-language", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "data-language", "start", "title"], // they contain no address
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const HARMLESS = /^<\/?(?:b|br|i|kbd|sub|sup|u)\s*\/?>$/i;

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => text.replace(/[&<>"']/g, (character) => escapes[character]);
const asLines = (text) => `<p>${escape(text.trim()).replaceAll("\n", "<br>")}</p>`;

const marked = new Marked({
  gfm: true,
  tokenizer,
  renderer: {
    html: ({ text, block }) => (HARMLESS.test(text.trim()) ? text : block ? asLines(text) : escape(text)),
    heading({ tokens, depth }) {
      const tag = `h${Math.min(depth + 2, 6)}`; // below the headings of the page
      return `<${tag}>${this.parser.parseInline(tokens)}</${tag}>`;
    },
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code: ({ text, lang }) => `<pre><code data-language="${escape(lang?.match(/^\S+/)?.[0] ?? "")}">${escape(text)}</code></pre>`,
  },
});

const LONGEST = 300_000; // characters; a longer text stays plain

/** The blocks of a text. What the parser fails at is one block of plain text: a message must not take the chat with it. */
function lex(text) {
  try {
    if (text.length <= LONGEST) return new BoundedLexer(marked.defaults).lex(text);
  } catch (error) {
    console.warn("This Markdown is shown as text:", error);
  }
  return [{ type: "html", block: true, raw: text, text }];
}

/** An element that shows a Markdown text, which may grow. */
export class MarkdownView {
  #blocks = []; // of { raw, nodes }, in the order of the element

  constructor(element) {
    this.element = element;
  }

  /** Show `text`; `done` is false while more may arrive. */
  update(text, done = true) {
    const tokens = lex(text);
    const links = JSON.stringify(tokens.links);
    let same = 0;
    while (same < tokens.length && same < this.#blocks.length) {
      const block = this.#blocks[same];
      const isLast = same === tokens.length - 1;
      if (block.raw !== tokens[same].raw || block.links !== links || block.open !== (isLast && !done)) break;
      same += 1;
    }
    for (const { nodes } of this.#blocks.splice(same)) nodes.forEach((node) => node.remove());
    for (const [offset, token] of tokens.slice(same).entries()) {
      const open = !done && same + offset === tokens.length - 1;
      const nodes = this.#render(token, open);
      this.element.append(...nodes);
      this.#blocks.push({ raw: token.raw, links, open, nodes });
    }
  }

  #render(token, open) {
    const fragment = purify.sanitize(marked.parser([token]), RULES);
    for (const link of fragment.querySelectorAll("a")) {
      link.target = "_blank";
      link.rel = "noopener noreferrer";
    }
    for (const table of fragment.querySelectorAll("table")) {
      const frame = el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
      table.replaceWith(frame);
      frame.append(table);
    }
    for (const code of fragment.querySelectorAll("pre > code")) frameCode(code, open);
    return [...fragment.childNodes];
  }
}

function frameCode(code, open) {
  const pre = code.parentElement;
  const language = code.dataset.language;
  const button = iconButton("Copy the code", "copy", () => copy(code.textContent, button));
  const frame = el("div", { class: "code" }, el("div", { class: "code-head" }, el("span", {}, language || "text"), button));
  pre.replaceWith(frame);
  pre.tabIndex = 0; // wide code scrolls, also from the keyboard
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  pre.setAttribute("role", "region");
  frame.append(pre);
  if (!open) highlight(code, language, purify);
}
