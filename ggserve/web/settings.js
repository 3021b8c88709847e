// The user's settings, saved in this browser: sampling, system prompt, key, theme. Blank means the server's default.

const KEY = "ggserve.settings";
const NUMBERS = {
  temperature: [0, 2], top_p: [0, 1], top_k: [-1, 1e6], min_p: [0, 1], repetition_penalty: [0.01, 10],
  presence_penalty: [-2, 2], frequency_penalty: [-2, 2], max_tokens: [1, 1e7], seed: [-(2 ** 31), 2 ** 31 - 1],
};
const WHOLE = new Set(["top_k", "max_tokens", "seed"]);

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

/** The current settings. Assigning does not save them; `change` does. */
export const settings = read();

const listeners = [];

export function change(values) {
  Object.assign(settings, values);
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // no storage: the settings live as long as the page
  }
  for (const listener of listeners) listener();
}

export function onChange(listener) {
  listeners.push(listener);
}

/** Return the request fields of the settings. */
export function samplingFields() {
  const fields = {};
  for (const name of Object.keys(NUMBERS)) {
    if (settings[name] != null) fields[name] = settings[name];
  }
  if (settings.stop?.length) fields.stop = settings.stop;
  return fields;
}

/** Return the further request fields that the user wrote as JSON. */
export function moreFields() {
  return settings.more ? JSON.parse(settings.more) : {};
}

/** Return the value of a setting from its field's text. Throws an error that says what is wrong. */
export function parse(name, text) {
  if (name in NUMBERS) return parseNumber(name, text.trim());
  if (name === "stop") return text.split("\n").filter((line) => line).map((line) => line.replaceAll("\\n", "\n"));
  if (name === "more" && text.trim()) {
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new Error(`Not JSON: ${error.message}`);
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("This must be an object: {…}");
  }
  return text;
}

/** Return the text for the field of a setting. */
export function format(name) {
  const value = settings[name];
  if (name === "stop") return (value ?? []).map((line) => line.replaceAll("\n", "\\n")).join("\n");
  return value == null ? "" : String(value);
}

function parseNumber(name, text) {
  if (text === "") return null;
  const [low, high] = NUMBERS[name];
  const value = Number(text);
  if (!Number.isFinite(value) || value < low || value > high || (WHOLE.has(name) && !Number.isInteger(value))) {
    throw new Error(`A ${WHOLE.has(name) ? "whole number" : "number"} from ${low} to ${high}, please, or nothing.`);
  }
  return value;
}
