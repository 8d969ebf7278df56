// The jobs that this page knows, and how it stays up to date about those that have not ended.
//
// A browser holds six connections to a server at most, all tabs together, so only the two that are furthest are
// followed by a stream; the rest are asked for every two seconds, and everything rests more while nobody looks.
import * as api from "./api.js";
import { ended } from "./dom.js";

const STREAMS = 2;
const PAUSE = 2000;
const HIDDEN_PAUSE = 15000;
const ASKED_AT_ONCE = 4;

const known = new Map();
const streams = new Map();
const broken = new Set();
const files = new Map();
let timer = null;
let turn = 0;

export const get = (id) => known.get(id);
export const newestFirst = () => [...known.values()].sort((a, b) => b.created_at - a.created_at || b.order - a.order);

/** The files a job was made with, as long as this page lives. */
export const filesOf = (id) => files.get(id);
export const keepFiles = (id, given) => files.set(id, given);

/** Take in what the server said of a job. */
export function put(job) {
  const before = known.get(job.id);
  if (before && ended(before) && !ended(job)) return; // a late answer
  const order = before?.order ?? (turn += 1);
  known.set(job.id, { ...job, order, cancelling: before?.cancelling && !ended(job) });
  if (ended(job)) broken.delete(job.id);
  api.emit("job", { id: job.id, before, added: !before });
  tend();
}

export function forget(id) {
  known.delete(id);
  files.delete(id);
  api.releaseJob(id);
  api.emit("gone", { id });
  tend();
}

/** All of them, as when another key sees others. */
export function forgetAll() {
  for (const id of [...known.keys()]) forget(id);
}

export async function cancel(id) {
  const job = known.get(id);
  if (!job || ended(job)) return;
  known.set(id, { ...job, cancelling: true });
  api.emit("job", { id, before: job });
  try {
    put(await api.cancel(id));
  } catch (error) {
    known.set(id, { ...known.get(id), cancelling: false });
    api.emit("job", { id, before: job });
    throw error;
  }
}

function rank(job) {
  return [job.status === "in_progress" ? 0 : 1, job.position ?? Infinity, job.created_at];
}

const unfinished = () =>
  [...known.values()].filter((job) => !ended(job)).sort((a, b) => {
    const [left, right] = [rank(a), rank(b)];
    const index = left.findIndex((value, place) => value !== right[place]);
    return index < 0 ? 0 : left[index] - right[index];
  });

function tend() {
  const waiting = unfinished();
  const wanted = document.hidden ? [] : waiting.filter((job) => !broken.has(job.id)).slice(0, STREAMS).map((job) => job.id);
  for (const [id, stream] of streams) {
    if (wanted.includes(id)) continue;
    stream.close();
    streams.delete(id);
  }
  for (const id of wanted) {
    if (streams.has(id)) continue;
    streams.set(id, api.follow(id, put, () => {
      broken.add(id);
      streams.get(id)?.close();
      streams.delete(id);
      tend();
    }));
  }
  if (timer === null && waiting.some((job) => !streams.has(job.id))) {
    timer = setTimeout(poll, document.hidden ? HIDDEN_PAUSE : PAUSE);
  }
}

async function poll() {
  const due = unfinished().filter((job) => !streams.has(job.id)).slice(0, ASKED_AT_ONCE);
  for (const { id } of due) {
    try {
      put(await api.job(id));
    } catch (error) {
      if (error.code === "not_found") forget(id);
      else break;
    }
  }
  timer = null;
  tend();
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  timer = null;
  if (document.hidden) tend();
  else poll();
});
