// Colours for code: highlight.js and a language's grammar are fetched when the first code of that language appears.

const GRAMMARS = {
  bash: "bash console sh shell zsh", cpp: "c c++ cc cpp h hpp", css: "css scss", diff: "diff patch", go: "go golang",
  java: "java", javascript: "javascript js jsx mjs node ts tsx typescript", json: "json json5 jsonc", python: "py python python3",
  rust: "rs rust", sql: "mysql postgresql sql sqlite", xml: "html svg xhtml xml", yaml: "yaml yml",
};
const LONGEST = 50_000; // characters; longer code stays plain

const fileOf = new Map(Object.entries(GRAMMARS).flatMap(([file, names]) => names.split(" ").map((name) => [name, file])));
const loading = new Map();

function load(file) {
  if (!loading.has(file)) {
    loading.set(file, Promise.all([import("./vendor/hljs/core.js"), import(`./vendor/hljs/${file}.js`)]).then(
      ([{ default: hljs }, { default: grammar }]) => {
        hljs.registerLanguage(file, grammar);
        return hljs;
      }));
    loading.get(file).catch(() => loading.delete(file)); // the server may be gone: try again next time
  }
  return loading.get(file);
}

/** Colour a code element if its language is known; its text does not change. */
export async function highlight(code, language, purify) {
  const file = fileOf.get(language.toLowerCase());
  if (!file || code.textContent.length > LONGEST) return;
  const hljs = await load(file).catch(() => null);
  if (!hljs) return;
  const { value } = hljs.highlight(code.textContent, { language: file, ignoreIllegals: true });
  code.replaceChildren(purify.sanitize(value, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }));
}
