// The server's API: JSON, and streams of server-sent events. Knows nothing of chats.

import { settings } from "./settings.js";

/** An error from the server, or the lack of an answer, in which case `status` is 0. */
export class ServerError extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

/** Get the JSON at a path. Throws ServerError. */
export async function getJSON(path, timeout = 5000) {
  const response = await request(path, { cache: "no-store", signal: AbortSignal.timeout(timeout) });
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

/** Post a JSON body and return the parsed answer. Throws ServerError. */
export async function postJSON(path, body) {
  const response = await request(path, post(body));
  if (!response.ok) throw await errorOf(response);
  return response.json();
}

/** Yield the lines of a streamed answer, parsed as JSON. Throws ServerError, or the reason of an aborted `signal`. */
export async function* streamLines(path, body, signal) {
  const response = await request(path, { ...post(body), signal });
  if (!response.ok) throw await errorOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) yield JSON.parse(line);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Yield the events of a streamed answer, parsed. Throws ServerError, or the reason of an aborted `signal`. */
export async function* streamJSON(path, body, signal) {
  const options = post({ ...body, stream: true, stream_options: { include_usage: true } });
  const response = await request(path, { ...options, signal });
  if (!response.ok) throw await errorOf(response);
  for await (const data of serverSentData(response.body, signal)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw toError(event.error, response.status);
    yield event;
  }
  throw new ServerError("The connection broke before the answer was complete.");
}

function post(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

async function request(path, options) {
  const headers = { ...options.headers };
  if (settings.key) headers.Authorization = `Bearer ${settings.key}`;
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer.");
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  return Object.assign(toError(body?.error ?? `The server answered ${response.status}.`, response.status), { body });
}

function toError(error, status) {
  const message = typeof error === "string" ? error : String(error.message ?? "The server reports an error.");
  return new ServerError(message, { status, param: error.param, code: error.code });
}

/** The data of each event (WHATWG HTML, section 9.2.6); comments and event names are ignored. */
async function* serverSentData(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
    throw new ServerError("The connection broke before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
