// The token view: each token shaded by its probability, with the alternatives to the selected one.

import { el } from "./dom.js";

const SHADES = [0.9, 0.6, 0.3, 0.1]; // of probability; below the last is the darkest

function shade(logprob) {
  const probability = Math.exp(logprob);
  const index = SHADES.findIndex((bound) => probability >= bound);
  return index < 0 ? SHADES.length : index;
}

function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "< 0.1"} %`;
}

/** Return a token's text with its white space made visible. */
function visible(token) {
  return token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·") || "∅";
}

/** An element that shows tokens ({token, logprob, top}). Arrow keys go from token to token. */
export function tokenView(tokens) {
  const details = el("div", { class: "token-details", "aria-live": "polite" });
  const line = el("div", { class: "token-line", role: "group", "aria-label": "Tokens, arrow keys move" });
  tokens.forEach(({ token, logprob }, index) => {
    const known = Number.isFinite(logprob);
    line.append(el("button", {
      type: "button", class: `token shade-${known ? shade(logprob) : "none"}`, tabindex: index ? "-1" : "0",
      "aria-label": `${visible(token)}${known ? `, ${percent(logprob)}` : ""}`,
    }, visible(token)));
    if (token.includes("\n")) line.append(el("br"));
  });
  const buttons = [...line.querySelectorAll("button")];
  const choose = (button) => {
    for (const other of buttons) {
      other.setAttribute("aria-pressed", other === button);
      other.tabIndex = other === button ? 0 : -1;
    }
    details.replaceChildren(alternatives(tokens[buttons.indexOf(button)]));
  };
  line.addEventListener("click", ({ target }) => target.closest("button") && choose(target.closest("button")));
  line.addEventListener("focusin", ({ target }) => choose(target));
  line.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = buttons[buttons.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  details.append(legend());
  return el("div", { class: "tokens" }, line, details);
}

function alternatives({ token, logprob, top }) {
  const rows = top.some((other) => other.token === token) || !Number.isFinite(logprob) ? top : [{ token, logprob }, ...top];
  return el("table", {}, el("caption", { class: "visually-hidden" }, `Alternatives to ${visible(token)}`),
    el("tbody", {}, ...rows.map((other) => {
      const bar = el("progress", { max: "1", value: Math.exp(other.logprob), "aria-hidden": "true" });
      return el("tr", { class: other.token === token && "chosen" },
        el("th", { scope: "row" }, visible(other.token)), el("td", {}, bar), el("td", {}, percent(other.logprob)));
    })));
}

function legend() {
  return el("p", { class: "hint" }, "Darker tokens were less likely. Choose a token to see the alternatives.");
}
