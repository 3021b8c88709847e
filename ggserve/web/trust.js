// Answers that can be checked: quotations shown in their documents, and JSON values shaded by confidence.

import { el } from "./dom.js";

/** Show the document of each citation with the quotation marked. */
export function citationView({ citations, documents }) {
  return el("div", { class: "sources" }, ...documents.map(({ title, text }, index) => {
    const quoted = citations.filter((one) => one.document_index === index);
    return quoted.length ? el("section", { "aria-label": "Document" },
      el("h3", {}, title || `Document ${index + 1}`), el("div", { class: "plain", dir: "auto" }, ...marked(text, quoted))) : "";
  }));
}

function marked(text, citations) {
  const characters = Array.from(text); // the server counts code points
  const parts = [];
  let at = 0;
  for (const { start_char_index: start, end_char_index: end } of citations.toSorted((a, b) => a.start_char_index - b.start_char_index)) {
    if (start < at) continue; // quoted twice
    parts.push(characters.slice(at, start).join(""), el("mark", {}, characters.slice(start, end).join("")));
    at = end;
  }
  return [...parts, characters.slice(at).join("")];
}

/** Show a JSON answer with each value shaded: the stronger, the less sure the model was. */
export function confidenceView({ content, fields }) {
  let value;
  try {
    value = JSON.parse(content);
  } catch {
    return el("div", { class: "plain" }, "The answer is not complete.");
  }
  return el("pre", { class: "confidence" }, ...nodes(value, "", fields, "\n"));
}

function nodes(value, pointer, fields, line) {
  if (value === null || typeof value !== "object") return [leaf(JSON.stringify(value), fields[pointer])];
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Object.entries(value).map(([key, inner]) => [
    `${line}  `, Array.isArray(value) ? "" : `${JSON.stringify(key)}: `,
    ...nodes(inner, `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`, fields, `${line}  `),
  ]);
  return [open, ...items.flatMap((item, index) => (index ? [",", ...item] : item)), items.length ? line : "", close];
}

function leaf(text, field) {
  if (field?.probability == null) return text;
  const percent = (probability) => `${(100 * probability).toFixed(1)} %`;
  const others = (field.alternatives ?? []).map((one) => `${JSON.stringify(one.value)}: ${percent(one.probability)}`);
  const span = el("span", { class: "value", title: others.join("\n") || percent(field.probability) }, text);
  span.style.setProperty("--doubt", `${Math.round(100 * (1 - field.probability))}%`);
  return span;
}
