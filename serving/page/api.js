// The JSON API: send a request, drop stale responses, and store the API key of this tab.

const KEY = "recsys.key";

/** An error response or a failed request, in one line. `status` is 0 where there was no response. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The API key, stored until the tab is closed; null deletes it. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value === null ? sessionStorage.removeItem(KEY) : sessionStorage.setItem(KEY, value)),
};

/**
 * The JSON response of a path of the API, by POST where there is a body.
 * Throws ApiError, or AbortError where `signal` is aborted. A 401 also dispatches the event `keyneeded` on the document,
 * whose detail is the server's message where a key was refused.
 */
export async function request(path, signal, body = null) {
  const sent = key.get();
  const headers = { Accept: "application/json" };
  if (sent) headers.Authorization = `Bearer ${sent}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
  let response, data;
  try {
    response = await fetch(path, options);
    data = await response.json().catch(() => null);
  } catch {
    signal.throwIfAborted();
    throw new ApiError("The server cannot be reached.");
  }
  signal.throwIfAborted();
  if (response.ok && data) return data;
  const message = data?.error?.message ?? `The server answered ${response.status}.`;
  if (response.status === 401) document.dispatchEvent(new CustomEvent("keyneeded", { detail: sent ? message : "" }));
  const wait = Number(response.headers.get("Retry-After"));
  throw new ApiError(wait > 0 ? `${message} (wait ${wait} s)` : message, response.status);
}

/** Runs one task at a time: a newer one aborts the older, whose response is dropped. `failed` gets an ApiError. */
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
        if (!(error instanceof ApiError)) throw error;
        failed(error);
      }
    },
  };
}
