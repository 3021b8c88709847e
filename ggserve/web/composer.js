// The composer: a field that grows, Enter and Shift+Enter, images (for vision models), send and stop.

import { connection } from "./connection.js";
import { byId, el, iconButton, toast } from "./dom.js";

const LONGEST_SIDE = 1536; // pixels; larger images are scaled down
const IMAGES = /^image\/(png|jpeg|webp|gif|bmp|avif)$/;

export class Composer {
  #images = []; // data URLs

  /** `send(text, images)`, `stop()` and `editLast()` are called when the user wants it. */
  constructor({ send, stop, editLast }) {
    this.field = byId("message");
    this.form = byId("composer");
    this.sending = send;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", stop);
    this.field.addEventListener("input", () => this.update());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#send();
      } else if (event.key === "ArrowUp" && !this.field.value) {
        event.preventDefault();
        editLast();
      }
    });
    byId("attach").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", ({ target }) => this.#attach(target.files).then(() => (target.value = "")));
    this.field.addEventListener("paste", ({ clipboardData }) => this.#attach(clipboardData.files));
    this.form.addEventListener("dragover", (event) => event.preventDefault());
    this.form.addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.#attach(event.dataTransfer.files);
    });
  }

  focus() {
    this.field.focus();
  }

  fill(text) {
    this.field.value = text;
    this.update();
    this.focus();
  }

  /** Show the possible actions; `running` is true during an answer. */
  update(running = this.running) {
    const hadFocus = [byId("stop"), byId("send")].includes(document.activeElement);
    this.running = running;
    byId("stop").hidden = !running;
    byId("send").hidden = running;
    byId("send").disabled = connection.state !== "ready" || !(this.field.value.trim() || this.#images.length);
    byId("attach").hidden = !connection.seesImages;
    if (hadFocus && document.activeElement === document.body) this.focus();
  }

  #send() {
    const text = this.field.value.trim();
    if (this.running || connection.state !== "ready" || !(text || this.#images.length)) return;
    const images = this.#images;
    this.#images = [];
    this.field.value = "";
    this.#showImages();
    this.sending(text, images);
  }

  async #attach(files) {
    if (!connection.seesImages) return;
    for (const file of files) {
      if (!IMAGES.test(file.type)) continue;
      try {
        this.#images.push(await smaller(file));
      } catch {
        toast(`${file.name} is not a readable image.`);
      }
    }
    this.#showImages();
  }

  #showImages() {
    byId("attached").replaceChildren(...this.#images.map((src, index) => {
      const remove = () => {
        this.#images.splice(index, 1);
        this.#showImages();
        this.focus();
      };
      return el("div", { class: "attachment" }, el("img", { src, alt: `Image ${index + 1}` }),
        iconButton(`Remove image ${index + 1}`, "close", remove));
    }));
    this.update();
  }
}

/** Return an image as a data URL, no larger than needed. */
async function smaller(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = el("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return file.type === "image/jpeg" ? canvas.toDataURL("image/jpeg", 0.9) : canvas.toDataURL("image/png");
}
