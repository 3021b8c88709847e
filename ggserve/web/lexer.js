// marked's lexer with bounds: what is nested deeper, or is longer, than people write stays text. Without them a few
// kilobytes of brackets or asterisks take seconds, overflow the stack, or make a million cells.

import { Lexer } from "./vendor/marked.js";

const DEEPEST = 16; // lists, quotations and emphasis inside each other
const LONGEST = 5_000; // characters of one paragraph or cell, which take quadratic time
const MOST_CELLS = 5_000; // of one table
const TOO_DEEP = new RegExp(`^(?:[ \\t]*(?:>|[-+*](?=\\s)|\\d{1,9}[.)](?=\\s))){${DEEPEST + 1}}`);

export class BoundedLexer extends Lexer {
  #depth = 0;

  blockTokens(source, tokens = [], ...rest) {
    if (this.#depth < DEEPEST) return this.#inside(() => super.blockTokens(source, tokens, ...rest));
    if (source) tokens.push({ type: "text", raw: source, text: source, tokens: this.inline(source) });
    return tokens;
  }

  inlineTokens(source, tokens = []) {
    if (this.#depth < DEEPEST && source.length <= LONGEST) return this.#inside(() => super.inlineTokens(source, tokens));
    tokens.push({ type: "text", raw: source, text: source, escaped: false });
    return tokens;
  }

  #inside(lex) {
    this.#depth += 1;
    try {
      return lex();
    } finally {
      this.#depth -= 1;
    }
  }
}

/** For marked's `tokenizer`: each gives a token, undefined for none of this kind, or false to let marked decide. */
export const tokenizer = {
  blockquote: (source) => (TOO_DEEP.test(source) ? undefined : false),
  list: (source) => (TOO_DEEP.test(source) ? undefined : false),
  table(source) {
    const columns = source.slice(0, Math.max(source.indexOf("\n"), 0)).split("|").length;
    if (columns < 2 || !hasRows(source, MOST_CELLS / columns)) return false;
    const end = source.indexOf("\n\n");
    const text = end < 0 ? source : source.slice(0, end);
    return { type: "paragraph", raw: text, text, tokens: this.lexer.inline(text) };
  },
};

/** Whether the table at the beginning of `source` has more than `count` lines. */
function hasRows(source, count) {
  if (!/^.*\n[ |:\-\t]*-/.test(source)) return false;
  let at = -1;
  for (let rows = 0; rows < count; rows += 1) {
    const next = source.indexOf("\n", at + 1);
    if (next < 0 || next === at + 1) return false;
    at = next;
  }
  return true;
}
