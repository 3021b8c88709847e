// Answers: a chat becomes a request, and the stream of its answer becomes a message. Draws nothing.

import { ServerError, streamJSON } from "./api.js";
import { connection } from "./connection.js";
import { moreFields, samplingFields, settings } from "./settings.js";

const TOP_TOKENS = 5;

/** A running answer: `stop` ends it and keeps what has arrived. `changed` is called when something arrives. */
class Running {
  #abort = new AbortController();
  #started = performance.now();
  #first = null;
  #pieces = 0;
  #usage = null;
  #finish = null;
  #progress = null;

  stop() {
    this.#abort.abort();
  }

  /** How far the prompt is until the answer begins: { processed, total } in tokens; null if that is not known. */
  get progress() {
    return this.#first === null ? this.#progress : null;
  }

  /** Return the tokens per second so far, counting each piece as a token; null at the beginning. */
  get pace() {
    const seconds = (performance.now() - this.#first) / 1000;
    return this.#pieces > 4 ? (this.#pieces - 1) / seconds : null;
  }

  /** Fill `message` with the result of `take(choice, message)` for each choice; errors become a field of the message. */
  async run(path, body, message, take, changed) {
    try {
      for await (const event of streamJSON(path, body, this.#abort.signal)) {
        if (event.usage) this.#usage = event.usage;
        if (event.prompt_progress) this.#progress = event.prompt_progress;
        const choice = event.choices?.[0];
        if (!choice) continue;
        if (take(choice, message)) {
          this.#first ??= performance.now();
          this.#pieces += 1;
        }
        this.#finish = choice.finish_reason ?? this.#finish;
        changed();
      }
      if (this.#finish === "length") message.note = "Stopped at the token limit.";
    } catch (error) {
      if (this.#abort.signal.aborted) {
        message.note = "Stopped.";
      } else {
        message.error = error.message;
        if (error instanceof ServerError && [0, 401, 403, 503].includes(error.status)) connection.check();
      }
    }
    message.stats = this.#stats();
  }

  #stats() {
    const stats = {};
    if (this.#first !== null) {
      stats.first = (this.#first - this.#started) / 1000;
      stats.seconds = (performance.now() - this.#first) / 1000;
    }
    if (this.#usage) {
      stats.prompt = this.#usage.prompt_tokens;
      stats.completion = this.#usage.completion_tokens;
      stats.cached = this.#usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    return stats;
  }
}

/** Return the tokens per second of a finished answer, after its first token; null if unknown. */
export function tokensPerSecond({ completion, seconds } = {}) {
  return completion > 1 && seconds > 0 ? (completion - 1) / seconds : null;
}

/** The running answers, by chat. */
export class Answers extends EventTarget {
  #running = new Map();

  of(chat) {
    return this.#running.get(chat.id);
  }

  /** Answer the last message of `chat` with a new one. `change` events carry the chat and the message. */
  async start(chat) {
    const message = { role: "assistant", content: "", model: connection.model?.id };
    const running = new Running();
    const changed = () => this.dispatchEvent(new CustomEvent("change", { detail: { chat, message } }));
    const body = chatRequest(chat);
    if (body.documents) message.documents = body.documents;
    chat.messages.push(message);
    this.#running.set(chat.id, running);
    changed();
    await running.run("v1/chat/completions", body, message, takeChatDelta, changed);
    if (this.of(chat) === running) this.#running.delete(chat.id); // otherwise a newer answer has replaced it
    this.dispatchEvent(new CustomEvent("end", { detail: { chat, message } }));
  }
}

/** Continue a text; `changed` receives the message whose content is the continuation so far. */
export function continueText(prompt, changed) {
  const running = new Running();
  const message = { content: "" };
  const fields = settings.tokens ? { logprobs: TOP_TOKENS } : {};
  const body = { model: connection.model?.id, prompt, ...samplingFields(), ...fields, ...moreFields() };
  const ended = running.run("v1/completions", body, message, takeText, () => changed(message)).then(() => message);
  return { running, ended };
}

function chatRequest(chat) {
  const messages = chat.messages.filter((message) => message.role !== "assistant" || message.content || message.tool_calls);
  const system = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  const fields = settings.tokens ? { logprobs: true, top_logprobs: TOP_TOKENS } : {};
  const quoted = settings.document?.trim() ? { documents: [{ text: settings.document }], citations: true } : {};
  return {
    model: connection.model?.id,
    messages: [...system, ...messages.map(requestMessage)],
    return_progress: true,
    ...samplingFields(), ...fields, ...quoted, ...moreFields(),
  };
}

function requestMessage({ role, content, images, tool_calls, tool_call_id }) {
  if (images?.length) {
    const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
    return { role, content: [...parts, { type: "text", text: content }] };
  }
  const text = role === "assistant" ? splitThoughts(content).answer : content;
  return { role, content: text, ...(tool_calls && { tool_calls }), ...(tool_call_id && { tool_call_id }) };
}

/** Add the contents of a chat's chunk; return whether there were any. */
function takeChatDelta({ delta = {}, logprobs, field_confidence }, message) {
  const thoughts = delta.reasoning_content ?? delta.reasoning;
  if (thoughts) message.reasoning = (message.reasoning ?? "") + thoughts;
  if (delta.content) message.content += delta.content;
  if (field_confidence) message.fields = field_confidence;
  if (delta.citations) (message.citations ??= []).push(...delta.citations);
  for (const piece of delta.tool_calls ?? []) takeCall(piece, message);
  for (const token of logprobs?.content ?? []) {
    (message.tokens ??= []).push({ token: token.token, logprob: token.logprob, top: (token.top_logprobs ?? []).map(short) });
  }
  return Boolean(thoughts || delta.content || delta.tool_calls?.length);
}

function takeCall(piece, message) {
  const calls = (message.tool_calls ??= []);
  const call = (calls[piece.index ?? 0] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  call.id ||= piece.id ?? "";
  call.function.name ||= piece.function?.name ?? "";
  call.function.arguments += piece.function?.arguments ?? "";
}

/** Add the contents of a completion's chunk. Its logprobs have the older form, or that of chats. */
function takeText({ text, logprobs }, message) {
  message.content += text ?? "";
  if (logprobs?.content) takeChatDelta({ logprobs }, message);
  logprobs?.tokens?.forEach((token, index) => {
    const top = Object.entries(logprobs.top_logprobs?.[index] ?? {}).map(([other, logprob]) => ({ token: other, logprob }));
    (message.tokens ??= []).push({ token, logprob: logprobs.token_logprobs[index], top });
  });
  return Boolean(text);
}

function short({ token, logprob }) {
  return { token, logprob };
}

/** Split a text into a thought at its beginning, <think>…</think>, and the rest. */
export function splitThoughts(content) {
  const match = /^\s*<think>([\s\S]*?)(?:<\/think>\s*|$)/.exec(content);
  return match ? { thoughts: match[1].trim(), answer: content.slice(match[0].length) } : { thoughts: "", answer: content };
}
