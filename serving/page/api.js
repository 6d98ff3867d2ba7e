// The JSON API beside the page: one function that asks, one that keeps late answers out, and the key of this tab.

const KEY = "recsys.key";

/** What the server refused, or why it could not be asked, in one line. `status` is 0 where no answer came. */
export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The key, kept until the tab is closed; null forgets it. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value === null ? sessionStorage.removeItem(KEY) : sessionStorage.setItem(KEY, value)),
};

/**
 * JSON of a path of the API, by POST where there is a body.
 * Throws Refusal, or AbortError where `signal` says that nobody waits any more. A 401 also sends the document the event
 * `keyneeded`, whose detail is the server's message where a key was refused.
 */
export async function ask(path, signal, body = null) {
  const sent = key.get();
  const headers = { Accept: "application/json" };
  if (sent) headers.Authorization = `Bearer ${sent}`;
  if (body) headers["Content-Type"] = "application/json";
  const request = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
  let response, told;
  try {
    response = await fetch(path, request);
    told = await response.json().catch(() => null);
  } catch {
    signal.throwIfAborted();
    throw new Refusal("The server cannot be reached.");
  }
  signal.throwIfAborted();
  if (response.ok && told) return told;
  const message = told?.error?.message ?? `The server answered ${response.status}.`;
  if (response.status === 401) document.dispatchEvent(new CustomEvent("keyneeded", { detail: sent ? message : "" }));
  const wait = Number(response.headers.get("Retry-After"));
  throw new Refusal(wait > 0 ? `${message} (wait ${wait} s)` : message, response.status);
}

/** Runs one task at a time: a newer one aborts the older, whose answer is never seen. `failed` takes a Refusal. */
export function latest() {
  let controller = new AbortController();
  return {
    cancel: () => controller.abort(),
    async run(task, failed) {
      controller.abort();
      controller = new AbortController();
      const { signal } = controller;
      try {
        await task(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Refusal)) throw error;
        failed(error);
      }
    },
  };
}
