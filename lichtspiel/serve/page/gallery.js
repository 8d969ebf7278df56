// All of one's jobs, newest first: small pictures that open on the screen and move when pointed at.
import * as api from "./api.js";
import { $, el, ended, explain, stateWords } from "./dom.js";
import * as jobs from "./jobs.js";
import * as screen from "./screen.js";
import { ago, number, onLanguage, t } from "./words.js";

const cards = new Map();
const MANY = 100;
let last = null; // id to go on from
let loading = false;

/** The newest jobs, or those after the last one shown. */
export async function load({ more = false, limit } = {}) {
  if (loading) return;
  loading = true;
  $("gallery-error").replaceChildren();
  try {
    const page = await api.jobs(more ? last : null, limit);
    for (const job of [...page.data].reverse()) jobs.put(job); // oldest first: of the same second, the later is newer
    if (more || last === null) {
      last = page.last_id ?? last;
      $("more").hidden = !page.has_more;
    }
  } catch (error) {
    if (error.code !== "invalid_key") $("gallery-error").replaceChildren(explain(error));
  } finally {
    loading = false;
    sift();
  }
}

/** Show the cards whose prompts have all words that are searched for. */
function sift() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [id, card] of cards) {
    const prompt = (jobs.get(id)?.prompt ?? "").toLowerCase();
    card.root.hidden = !words.every((word) => prompt.includes(word));
    shown += card.root.hidden ? 0 : 1;
  }
  $("search").hidden = cards.size < 2 && !words.length;
  const none = words.length && cards.size ? "search_none" : "gallery_empty";
  $("gallery-empty").dataset.t = none;
  $("gallery-empty").textContent = t(none);
  $("gallery-empty").hidden = shown > 0 || !$("more").hidden;
}

/** Search in all of one's videos, older ones included. */
async function search() {
  sift();
  const words = $("search").value;
  while (words.trim() && words === $("search").value && !$("more").hidden && !loading) {
    const before = last;
    await load({ more: true, limit: MANY });
    if (last === before) return; // the server is away, and says so above
  }
}

function make(id) {
  const picture = el("img", { alt: "", loading: "lazy", hidden: true });
  const label = el("span", { class: "badge" });
  const bar = el("span", { class: "beam" }, el("span"));
  const open = el("button", { type: "button", class: "open", onclick: () => api.emit("show", { id, scroll: true }) },
    el("span", { class: "thumb" }, picture, label, bar));
  const prompt = el("p", { class: "prompt" });
  const meta = el("p", { class: "meta" });
  const card = { root: el("li", { class: "card", "data-id": id }, open, prompt, meta), open, picture, label, bar, prompt, meta, state: "" };
  open.addEventListener("pointerenter", () => move(id, card));
  open.addEventListener("pointerleave", () => rest(card));
  return card;
}

/** Play while pointed at, unless motion is unwelcome or the file would have to be fetched with a key. */
function move(id, card) {
  const job = jobs.get(id);
  if (job?.status !== "completed" || api.key.get() || card.film) return;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches || card.picture.hidden) return;
  card.film = el("video", { muted: true, loop: true, playsinline: true, tabindex: "-1", "aria-hidden": "true", src: api.paths.video(id) });
  card.film.muted = true;
  card.picture.after(card.film);
  card.film.play().catch(() => rest(card));
}

function rest(card) {
  card.film?.pause();
  card.film?.removeAttribute("src");
  card.film?.load();
  card.film?.remove();
  card.film = null;
}

function paint(id) {
  const job = jobs.get(id);
  const card = cards.get(id);
  const state = stateWords(job);
  card.root.dataset.state = job.status;
  card.root.classList.toggle("current", screen.current() === id);
  if (screen.current() === id) card.open.setAttribute("aria-current", "true");
  else card.open.removeAttribute("aria-current");
  card.open.setAttribute("aria-label", t("open", { state, prompt: job.prompt }));
  card.label.hidden = job.status === "completed";
  card.label.textContent = [state, job.status === "queued" && job.position && number(job.position)].filter(Boolean).join(" · ");
  card.bar.hidden = job.status !== "in_progress";
  card.bar.firstElementChild.style.width = `${job.progress ?? 0}%`;
  card.prompt.textContent = job.prompt;
  card.meta.textContent = [job.model, ago(new Date((job.completed_at ?? job.created_at) * 1000))].join(" · ");
  if (job.status === "completed" && card.state !== "completed") poster(id, card);
  card.state = job.status;
}

async function poster(id, card) {
  try {
    card.picture.src = await api.media(api.paths.thumbnail(id));
    card.picture.hidden = false;
  } catch {
    // A card without a picture still opens.
  }
}

function place(id) {
  const order = jobs.newestFirst().map((job) => job.id).filter((each) => cards.has(each));
  const next = order[order.indexOf(id) + 1];
  $("cards").insertBefore(cards.get(id).root, next ? cards.get(next).root : null);
}

export function start() {
  api.bus.addEventListener("job", ({ detail }) => {
    const fresh = !cards.has(detail.id);
    if (fresh) cards.set(detail.id, make(detail.id));
    paint(detail.id);
    if (fresh) place(detail.id);
    if (fresh && !loading) sift();
  });
  api.bus.addEventListener("gone", ({ detail }) => {
    const card = cards.get(detail.id);
    if (!card) return;
    rest(card);
    card.root.remove();
    cards.delete(detail.id);
    if (last === detail.id) last = jobs.newestFirst().at(-1)?.id ?? null;
    sift();
  });
  api.bus.addEventListener("show", repaint);
  $("search").addEventListener("input", search);
  $("more").addEventListener("click", () => load({ more: true }));
  onLanguage(repaint);
}

function repaint() {
  for (const id of cards.keys()) paint(id);
}

export const unfinished = () => jobs.newestFirst().filter((job) => !ended(job));
