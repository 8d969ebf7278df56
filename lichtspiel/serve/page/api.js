// The server, as functions. Knows the HTTP API and nothing of the page; paths are relative, so that the page also works
// below a prefix.

export const bus = new EventTarget();
/** Events: "key" (the server wants one; detail: whether one was given), "job", "gone", "away", "back". */
export const emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

const STORE = "lichtspiel.key";
let secret = null;
try { secret = sessionStorage.getItem(STORE); } catch { /* storage may be forbidden: then it lives as long as the page */ }

export const key = {
  get: () => secret,
  set(value) {
    secret = value || null;
    try {
      if (secret) sessionStorage.setItem(STORE, secret);
      else sessionStorage.removeItem(STORE);
    } catch { /* as above */ }
  },
};

export class ApiError extends Error {
  constructor(message, { status = 0, code = "unknown", param = null, retry = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retry });
  }
}

// Seeds go up to 2^63, beyond what a JavaScript number holds exactly; where the engine tells the source, keep its digits.
const parse = (text) => JSON.parse(text, (name, value, context) =>
  name === "seed" && typeof value === "number" && !Number.isSafeInteger(value) && context?.source ? context.source : value);

async function failure(response) {
  let said = {};
  try { said = parse(await response.text()).error ?? {}; } catch { /* a proxy may answer in its own words */ }
  const after = Number(response.headers.get("Retry-After"));
  return new ApiError(said.message ?? response.statusText, {
    status: response.status,
    code: said.code ?? { 401: "invalid_key", 404: "not_found", 413: "too_large" }[response.status] ?? "unknown",
    param: said.param ?? null,
    retry: Number.isFinite(after) && after > 0 ? after : null,
  });
}

/** Ask the server; raises ApiError. Any answer or its lack tells whether the server is there. */
export async function ask(path, { method = "GET", json, form, headers = {}, signal } = {}) {
  const sent = { ...headers };
  const used = secret;
  if (used) sent.Authorization = `Bearer ${used}`;
  if (json) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: json ? JSON.stringify(json) : form, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    emit("away");
    throw new ApiError("", { code: "network" });
  }
  emit("back");
  if (response.ok) return response;
  const error = await failure(response);
  if (response.status === 401) {
    if (used && used === secret) key.set(null); // a late answer to an older key says nothing of this one
    if (!secret) emit("key", { given: Boolean(used) });
  }
  throw error;
}

const data = async (path, options) => parse(await (await ask(path, options)).text());
const at = (id, rest = "") => `v1/videos/${encodeURIComponent(id)}${rest}`;

/** What the server makes videos with (data), and the choices and bounds of the fields of a request (options). */
export const models = () => data("v1/models");
/** What a model reads in a prompt: {subjects, nearest, knows}. */
export const reading = (model, prompt) => data(`v1/models/${encodeURIComponent(model)}/reading`, { method: "POST", json: { prompt } });
export const job = (id) => data(at(id));
export const jobs = (after, limit = 24) =>
  data(`v1/videos?limit=${limit}&order=desc${after ? `&after=${encodeURIComponent(after)}` : ""}`);
export const cancel = (id) => data(at(id, "/cancel"), { method: "POST" });
export const remove = (id) => data(at(id), { method: "DELETE" });

/** Ask for a video, or for an edit of a given one. Fields go as JSON; with files, as a form. */
export function create(fields, files) {
  const headers = { "Idempotency-Key": [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
  const path = files.video ? "v1/videos/edits" : "v1/videos";
  if (!Object.keys(files).length) return data(path, { method: "POST", json: fields, headers });
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) form.append(name, String(one));
  }
  for (const [name, list] of Object.entries(files)) {
    for (const file of list) form.append(name, file, file.name || `${name}.png`);
  }
  return data(path, { method: "POST", form, headers });
}

/** The mask of what is in a box [left, top, right, bottom] of a video at a time: {mask, confidence, low, fps, frames}. */
export function mask(video, box, at, consent, signal) {
  const form = new FormData();
  form.append("video", video, video.name);
  form.append("box", box.join(","));
  form.append("at", String(at));
  if (consent) form.append("consent", consent);
  return data("v1/videos/masks", { method: "POST", form, signal });
}

export function verify(file, name, signal) {
  const form = new FormData();
  form.append("file", file, name);
  return data("v1/verify", { method: "POST", form, signal });
}

/** What was judged, newest first: {data, has_more, may_review}; with `waiting`, only what needs a person. */
export const moderations = ({ waiting = false }) => data(`v1/videos/moderations?limit=50${waiting ? "&needs_review=true" : ""}`);

export function moderate(file, name) {
  const form = new FormData();
  form.append("video", file, name);
  form.append("metadata", JSON.stringify({ name: name.slice(0, 200) }));
  return data("v1/videos/moderations", { method: "POST", form });
}

/** Record what a person decided: {decision, reviewer, note}. */
export const review = (id, json) => data(`v1/videos/moderations/${encodeURIComponent(id)}/review`, { method: "POST", json });

/** Whether the server can work: {state: "ready" | "loading" | "away", reasons}. Never raises. */
export async function ready() {
  let response;
  try {
    const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
    response = await fetch("ready", { cache: "no-store", headers });
  } catch {
    return { state: "away", reasons: [] };
  }
  if (response.ok) return { state: "ready", reasons: [] };
  let said = {};
  try { said = await response.json(); } catch { /* without words */ }
  const reasons = said.reasons ?? said.error?.message ?? [];
  return { state: "loading", reasons: (Array.isArray(reasons) ? reasons : [reasons]).map(String) };
}

// Pictures and videos: plain addresses, or, where a key has to go along, blobs

const blobs = new Map();

export const paths = {
  video: (id) => at(id, "/content"),
  thumbnail: (id) => at(id, "/content?variant=thumbnail"),
  sheet: (id) => `v1/videos/moderations/${encodeURIComponent(id)}/sheet`,
  preview: (id, step) => at(id, `/preview?step=${step}`),
};

/** An address that an element can show. */
export function media(path) {
  if (!secret) return Promise.resolve(path);
  if (!blobs.has(path)) {
    const made = ask(path).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob));
    made.catch(() => blobs.delete(path));
    blobs.set(path, made);
  }
  return blobs.get(path);
}

/** Give back the memory of all media whose path begins so. */
export function release(prefix) {
  for (const [path, made] of blobs) {
    if (!path.startsWith(prefix)) continue;
    blobs.delete(path);
    made.then((address) => URL.revokeObjectURL(address), () => {});
  }
}
export const releaseJob = (id) => release(at(id));

/** The file itself. */
export const content = async (id) => (await ask(paths.video(id))).blob();

/** Call `told` with each change of a job until it ends or `close` of what is returned is called; `broke` when the
 * stream cannot be had. EventSource cannot send a key, so with one the stream is read by hand. */
export function follow(id, told, broke) {
  const path = at(id, "/events");
  if (!secret) {
    const source = new EventSource(path);
    source.addEventListener("video", (event) => told(parse(event.data)));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) broke();
    });
    return { close: () => source.close() };
  }
  const stop = new AbortController();
  read(path, stop.signal, told).then(broke, () => stop.signal.aborted || broke());
  return { close: () => stop.abort() };
}

async function read(path, signal, told) {
  const response = await ask(path, { headers: { Accept: "text/event-stream" }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r\n\r\n|\n\n|\r\r/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:"));
      if (lines.length) told(parse(lines.map((line) => line.slice(5).trimStart()).join("\n")));
    }
  }
}
