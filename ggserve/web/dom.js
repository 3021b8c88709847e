// Elements, icons and announcements. No HTML strings: a model's text is never treated as markup here.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (`onclick`, ... are listeners; true is an empty attribute, false and null none). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button with an icon and an accessible name. */
export function iconButton(label, iconName, onclick, attributes = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(iconName));
}

/** Announce a text to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

let hiding;

/** A short notice at the bottom, with an optional action, such as undo. */
export function toast(text, action = null, run = null) {
  const box = byId("toast");
  const hide = () => box.replaceChildren();
  clearTimeout(hiding);
  hiding = setTimeout(hide, 8000);
  const act = () => {
    hide();
    run();
  };
  box.replaceChildren(el("div", { class: "toast" }, text,
    action && el("button", { type: "button", class: "link-button", onclick: act }, action)));
}

/** Copy a text to the clipboard, even outside a secure context (http on another machine). */
export async function copy(text, button) {
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (!copied && !copyOldWay(text, button)) return toast("This browser does not allow copying.");
  announce("Copied");
  button.replaceChildren(icon("check"));
  setTimeout(() => button.replaceChildren(icon("copy")), 1500);
}

function copyOldWay(text, button) {
  const area = el("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  button.focus();
  return copied;
}

/** Return a function that calls `draw` at most once per frame. */
export function oncePerFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
