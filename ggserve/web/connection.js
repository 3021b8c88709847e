// The state of the server (ready, loading or down) and its models. Polls the server and sends `change` events.

import { getJSON } from "./api.js";
import { onChange, settings } from "./settings.js";

const PAUSE = { ready: 10_000, loading: 400, down: 1500, locked: 10_000, connecting: 400 }; // milliseconds

class Connection extends EventTarget {
  state = "connecting"; // ready, loading, down (no answer), locked (the key is missing or wrong)
  progress = null; // of loading, 0 to 1
  message = ""; // the reason why it is down
  models = []; // as /v1/models lists them
  #timer;
  #asking = false;
  #key = settings.key;
  fallback = ""; // the reason why the server uses less of its GPU than it should
  #loaded = null; // the model that /health named last

  start() {
    for (const moment of ["focus", "online", "pageshow"]) addEventListener(moment, () => this.check());
    document.addEventListener("visibilitychange", () => this.check());
    onChange(() => {
      if (settings.key === this.#key) return;
      this.#key = settings.key;
      this.models = [];
      this.check();
    });
    this.check();
  }

  /** The model that requests go to. */
  get model() {
    return this.models.find((model) => model.id === settings.model) ?? this.models[0] ?? null;
  }

  get contextLength() {
    return this.model?.context_length ?? null;
  }

  /** Return whether the model accepts images, according to the server. */
  get seesImages() {
    const hints = [this.model?.capabilities, this.model?.modalities, this.model?.input_modalities];
    return hints.some((hint) =>
      Array.isArray(hint) ? hint.some((item) => ["vision", "image", "images", "multimodal"].includes(item))
        : Boolean(hint?.vision || hint?.image));
  }

  /** Poll at once, and fetch the list of models again. */
  refresh() {
    this.models = [];
    this.check();
  }

  async check() {
    if (this.#asking || document.hidden) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    try {
      this.#set(await this.#ask());
    } finally {
      this.#asking = false;
      this.#timer = setTimeout(() => this.check(), PAUSE[this.state]);
    }
  }

  async #ask() {
    try {
      const health = await getJSON("health");
      if (!this.models.length || this.state !== "ready" || health.model !== this.#loaded) {
        this.models = (await getJSON("v1/models")).data ?? [];
        this.#loaded = health.model;
      }
      return { state: "ready", fallback: health.fallback ?? "" };
    } catch (error) {
      if (error.status === 401 || error.status === 403) return { state: "locked", message: error.message };
      if (error.body?.status === "loading") return { state: "loading", progress: error.body.progress ?? null };
      return { state: "down", message: error.message };
    }
  }

  #set({ state, progress = null, message = "", fallback = "" }) {
    Object.assign(this, { state, progress, message, fallback });
    this.dispatchEvent(new Event("change"));
  }
}

export const connection = new Connection();
