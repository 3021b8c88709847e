// The settings dialog. Each field is saved as soon as it is valid.

import { byId, el } from "./dom.js";
import { change, format, parse, settings } from "./settings.js";

const dialog = byId("settings");

let chat; // of the page: system() and setSystem(text), the prompt of the chat that is shown

function setUpField(field) {
  const { name } = field;
  const problem = el("span", { class: "problem", id: `problem-${name}`, role: "alert" });
  field.after(problem);
  field.setAttribute("aria-describedby", `${field.getAttribute("aria-describedby") ?? ""} problem-${name}`.trim());
  field.addEventListener("input", () => {
    try {
      const value = field.type === "checkbox" ? field.checked : parse(name, field.value);
      problem.textContent = "";
      field.removeAttribute("aria-invalid");
      change({ [name]: value });
      if (name === "system") chat.setSystem(value);
    } catch (error) {
      problem.textContent = error.message;
      field.setAttribute("aria-invalid", "true");
    }
  });
}

function fill() {
  for (const field of dialog.querySelectorAll("input[name], textarea[name]")) {
    if (field.type === "radio") field.checked = field.value === (settings.theme ?? "");
    else if (field.type === "checkbox") field.checked = Boolean(settings[field.name]);
    else field.value = field.name === "system" ? chat.system() : format(field.name);
    field.removeAttribute("aria-invalid");
  }
  for (const problem of dialog.querySelectorAll(".problem")) problem.textContent = "";
}

/** Open the dialog, at a field if one is named. */
export function openSettings(name = null) {
  fill();
  dialog.showModal();
  if (name) dialog.querySelector(`[name=${name}]`).focus();
}

function applyTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = settings.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  change({ theme: next === (dark ? "dark" : "light") ? "" : next });
  applyTheme();
}

/** Set up the dialog; `shownChat` gets and sets the system prompt of the chat that is shown. */
export function setUpSettings(shownChat) {
  chat = shownChat;
  for (const field of dialog.querySelectorAll("input[name]:not([type=radio]), textarea[name]")) setUpField(field);
  for (const radio of dialog.querySelectorAll("[type=radio]")) {
    radio.addEventListener("change", () => {
      change({ theme: radio.value });
      applyTheme();
    });
  }
  byId("open-settings").addEventListener("click", () => openSettings());
  byId("toggle-theme").addEventListener("click", toggleTheme);
  byId("reset-settings").addEventListener("click", () => {
    const { key, theme, model } = settings;
    for (const name of Object.keys(settings)) delete settings[name];
    change({ key, theme, model });
    chat.setSystem("");
    fill();
  });
  dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
}
