// Requests to this server, and to no other.

import { storedKey } from "./key.js";

/** An error that the server has told; see docs/http.md. `hint` says what to do. */
export class Problem extends Error {
  constructor({ title, detail, hint, status, code, where }) {
    super(detail);
    Object.assign(this, { title, hint, status, code, where });
  }
}

/** Nobody answers. */
export class Unreachable extends Error {
  title = "The server doesn’t answer";
  hint = "This page goes on by itself as soon as it is back.";
}

/** Tells `key` when one is asked for, `gone` when nobody answers and `back` when somebody does again. */
export const signals = new EventTarget();

const SILENCE_MS = 1500; // between two looks whether the server is back
let isGone = false;

/** Send a request and return the answer's JSON. Raises Problem, Unreachable, and AbortError. */
export async function ask(path, options = {}) {
  const response = await send(path, options);
  return response.json();
}

/** Post JSON. Raises as ask does. */
export const post = (path, content, signal) =>
  ask(path, { method: "POST", body: JSON.stringify(content), type: "application/json", signal });

/** Yield the data of server-sent events: by fetch, because EventSource can't send a key. Raises as ask does. */
export async function* events(path, signal) {
  const response = await send(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const blocks = (waiting + part.value).split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        if (data.length) yield JSON.parse(data.join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Send a request and return the answer, whatever its body. Raises as ask does. */
export async function send(path, { method = "GET", body, type, signal } = {}) {
  const headers = new Headers(type ? { "Content-Type": type } : {});
  const key = storedKey();
  // A header holds bytes: whatever was typed goes as UTF-8, and the server says that it is wrong.
  if (key) headers.set("Authorization", `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`);
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { method, body, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    gone();
    throw new Unreachable();
  }
  if (isGone) back();
  if (response.ok) return response;
  const problem = new Problem(await response.json().catch(() => ({
    title: `The answer was ${response.status}`, detail: response.statusText,
  })));
  if (response.status === 401) signals.dispatchEvent(new CustomEvent("key", { detail: problem }));
  throw problem;
}

function gone() {
  if (isGone) return;
  isGone = true;
  signals.dispatchEvent(new Event("gone"));
  const look = setInterval(() => {
    fetch(new URL("livez", document.baseURI), { cache: "no-store" })
      .then((response) => { if (response.ok) back(); })
      .catch(() => {});
    if (!isGone) clearInterval(look);
  }, SILENCE_MS);
}

function back() {
  if (!isGone) return;
  isGone = false;
  signals.dispatchEvent(new Event("back"));
}
