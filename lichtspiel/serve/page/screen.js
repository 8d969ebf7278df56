// The screen: one job, large. It shows how far the work is by how wide its light has opened, then the result.
import * as api from "./api.js";
import { $, announce, asksConsent, el, ended, explain, facts, fileName, sizeOf, stateWords, whereWords } from "./dom.js";
import * as form from "./form.js";
import * as jobs from "./jobs.js";
import { duration, number, onLanguage, t, when } from "./words.js";

const PREVIEW_PAUSE = 1500;
const STAGES = ["load", "encode", "denoise", "decode", "upscale", "seal"];

let shown = null; // id of the job on the screen
let loaded = null; // id of the job whose result is loaded
let preview = { id: null, step: -1, at: 0 };
let said = "";
let follows = true; // the screen goes with the work until somebody chooses a video

export const current = () => shown;

const isPicture = (job) => form.modelOf(job.model)?.max_frames === 1;

/** Put a job on the screen; none empties it. */
export function show(id, { scroll = false } = {}) {
  if (id !== shown) {
    unload();
    said = "";
    $("how").open = false;
    $("failed").replaceChildren();
  }
  shown = id ?? null;
  paint();
  if (scroll) reach();
}

/** Show what is being made, or what was just asked for while nothing is. */
function follow(id) {
  follows = true;
  const busy = jobs.newestFirst().filter((job) => job.status === "in_progress").at(-1);
  const waiting = jobs.newestFirst().filter((job) => job.status === "queued").at(-1);
  show((busy ?? waiting ?? { id }).id, { scroll: true });
}

/** Bring the screen into view where it is not beside the form, as on a phone. */
function reach() {
  const box = $("screen").getBoundingClientRect();
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (box.top > innerHeight * 0.6 || box.top < 0) $("screen").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}

function unload() {
  const video = $("video");
  video.pause();
  video.removeAttribute("src");
  video.removeAttribute("poster");
  video.load();
  for (const id of ["still", "preview", "ambient"]) {
    $(id).removeAttribute("src");
    $(id).hidden = true;
  }
  video.hidden = true;
  loaded = null;
  preview = { id: null, step: -1, at: 0 };
}

function paint() {
  const job = shown && jobs.get(shown);
  $("caption").hidden = !job;
  $("canvas").dataset.show = job ? job.status : "idle";
  $("beam").hidden = !job || ended(job);
  if (!job) {
    $("canvas").style.setProperty("--open", "0.5");
    $("state").textContent = t("state_idle");
    $("where").textContent = t("state_idle_where");
    return;
  }
  $("state").textContent = stateWords(job);
  $("where").textContent = whereWords(job);
  $("says").hidden = job.status === "completed";
  progress(job);
  caption(job);
  if (job.status === "completed") finish(job);
  else if (job.has_preview && !ended(job)) glimpse(job);
}

function progress(job) {
  const share = Math.min(Math.max(job.progress ?? 0, 0), 100);
  $("canvas").style.setProperty("--open", String(ended(job) ? 0.04 : 0.04 + 0.96 * (share / 100)));
  $("beam").setAttribute("aria-valuenow", String(share));
  $("beam").setAttribute("aria-valuetext", [stateWords(job), `${share} %`, whereWords(job)].filter(Boolean).join(", "));
  $("beam").firstElementChild.style.width = `${share}%`;
  // Quarters are enough to hear; every step would drown all else.
  const words = `${stateWords(job)}${job.status === "in_progress" && share >= 25 ? `, ${Math.floor(share / 25) * 25} %` : ""}`;
  if (words !== said && !ended(job)) announce(words);
  said = words;
}

function caption(job) {
  const made = job.parameters ?? {};
  const size = sizeOf(job);
  const length = isPicture(job) ? t("length_one") : made.frames && made.fps ? duration(made.frames / made.fps) : "";
  $("screen-title").textContent = job.prompt;
  const others = jobs.newestFirst().filter((each) => each.status === "queued" && each.id !== job.id).length;
  $("waiting").textContent = others ? t("waiting", { n: number(others) }) : "";
  $("notes").replaceChildren(...(job.notes ?? []).map((text) => el("li", { text })));
  $("notes").hidden = !job.notes?.length || $("how").open;
  $("screen-meta").textContent = [job.model, size && size.join(" × "), length].filter(Boolean).join(" · ");
  $("cancel").hidden = ended(job);
  $("cancel").disabled = Boolean(job.cancelling);
  for (const id of ["download", "link", "check", "how"]) $(id).hidden = job.status !== "completed";
  $("again").hidden = $("delete").hidden = !ended(job);
  const failed = job.status === "failed" && job.error;
  if (failed && !$("failed").childElementCount) {
    $("failed").append(explain(job.error));
    if (asksConsent(job.error)) {
      const again = () => { form.again(job); form.askConsent(); };
      $("failed").append(el("button", { type: "button", text: t("consent_say"), onclick: again }));
    }
  }
  if ($("failed").childElementCount) $("failed").hidden = false;
  else $("failed").hidden = true;
  if ($("how").open) how();
}

/** The picture as it is so far; the last one stays until the next one is there. */
async function glimpse(job) {
  const now = Date.now();
  if (preview.id === job.id && (preview.step === job.step || now - preview.at < PREVIEW_PAUSE)) return;
  preview = { id: job.id, step: job.step, at: now };
  const path = api.paths.preview(job.id, job.step);
  try {
    const image = new Image();
    image.src = await api.media(path);
    await image.decode();
    if (shown !== job.id || loaded === job.id) return;
    for (const id of ["preview", "ambient"]) {
      $(id).src = image.src;
      $(id).hidden = false;
    }
  } catch {
    // The next step has another one.
  }
}

async function finish(job) {
  if (loaded === job.id) return;
  loaded = job.id;
  const picture = isPicture(job);
  const video = $("video");
  try {
    // Without a key both are plain addresses and load as the element wants; with one, the files are fetched first.
    const poster = await api.media(api.paths.thumbnail(job.id));
    const source = await api.media(api.paths.video(job.id));
    if (shown !== job.id || loaded !== job.id) return;
    $("ambient").src = poster;
    $("ambient").hidden = false;
    $("download").href = source;
    $("download").download = fileName(job, picture ? "png" : "mp4");
    if (picture) {
      Object.assign($("still"), { src: source, alt: job.prompt, hidden: false });
    } else {
      Object.assign(video, { poster, src: source, hidden: false });
      video.setAttribute("aria-label", t("player", { prompt: job.prompt }));
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
    }
    $("preview").hidden = true;
  } catch (error) {
    loaded = null;
    $("failed").replaceChildren(explain(error));
    $("failed").hidden = false;
  }
}

function how() {
  const job = jobs.get(shown);
  if (!job) return;
  const made = job.parameters ?? {};
  const size = sizeOf(job);
  const shows = (name) => (typeof made[name] === "number" ? number(made[name], 4) : made[name]);
  const rows = [
    [t("how_model"), job.model],
    [t("how_size"), size && size.join(" × ")],
    [t("how_length"), made.frames === 1 ? t("length_one") : made.frames && t("length_word", { frames: number(made.frames), seconds: duration(made.frames / (made.fps || 16)) })],
    [t("steps"), made.steps ? shows("steps") : null],
    [t("guidance"), shows("guidance")],
    [t("shift"), shows("shift")],
    [t("solver"), made.solver],
    [t("how_seed"), made.seed === undefined ? null : String(made.seed), { class: "code" }],
    [t("how_negative"), made.negative === undefined ? null : made.negative || t("how_negative_none")],
    [t("how_device"), made.device === "auto" ? null : made.device],
    [t("how_dtype"), made.dtype === "auto" ? null : made.dtype],
    [t("how_made"), job.completed_at && when(new Date(job.completed_at * 1000))],
    [t("how_expires"), job.expires_at && when(new Date(job.expires_at * 1000))],
    [t("how_id"), job.id, { class: "code" }],
    [t("how_marks"), marks(job.sealed ?? {})],
    [t("found_notes"), job.notes?.length ? job.notes.join("; ") : null, { lang: "en" }],
    [t("lora"), made.lora?.map((one) => [one.path, one.strength].filter((part) => part !== undefined).join(" · ")).join(", ")],
  ];
  $("how-body").replaceChildren(facts(rows), ...timings(job), el("p", { class: "about", text: t("how_seal") }));
}

/** What the file says of itself: which marks it bears. */
function marks(sealed) {
  const worn = [["manifest", "mark_signed"], ["watermark", "mark_watermark"], ["label", "mark_label"]];
  return worn.filter(([name]) => sealed[name]).map(([, word]) => t(word)).join(", ");
}

/** Copy the address at which this page shows the video; where that is not allowed, show it to be copied by hand. */
async function copyLink() {
  const address = new URL(`#${shown}`, location.href).href;
  try {
    await navigator.clipboard.writeText(address);
    announce(t("link_copied"));
    const told = $("link").querySelector("span");
    told.textContent = t("link_copied");
    told.hidden = false;
    setTimeout(() => { told.hidden = true; }, 2000);
  } catch {
    const field = el("input", { type: "text", readonly: true, "aria-label": t("link") });
    field.value = address;
    $("failed").replaceChildren(field);
    $("failed").hidden = false;
    field.select();
  }
}

/** Where the time went, as a bar and in numbers. */
function timings(job) {
  const spent = job.timings ?? {};
  const parts = STAGES.filter((stage) => spent[stage] > 0);
  if (!parts.length) return [];
  const all = parts.reduce((sum, stage) => sum + spent[stage], 0);
  const bar = el("div", { class: "times", "aria-hidden": "true" });
  for (const stage of parts) {
    const piece = el("span", { "data-stage": stage });
    piece.style.flexGrow = String(spent[stage] / all);
    bar.append(piece);
  }
  const list = el("ul", { class: "times-list" }, ...parts.map((stage) =>
    el("li", { "data-stage": stage }, el("span", { text: t(`stage_${stage}`) }), " ", el("b", { text: duration(spent[stage]) }))));
  const total = `${t("how_time")}: ${duration(spent.total ?? all)} ${t("how_total")}`;
  return [el("h3", { text: total }), bar, list];
}

/** Ask whether to delete, and do it. */
export async function remove(id, focusAfter) {
  const job = jobs.get(id);
  if (!job) return;
  $("sure-prompt").textContent = job.prompt;
  $("sure").returnValue = "";
  $("sure").showModal();
  await new Promise((done) => $("sure").addEventListener("close", done, { once: true }));
  if ($("sure").returnValue !== "delete") return;
  try {
    await api.remove(id);
  } catch (error) {
    if (error.code !== "not_found") {
      show(id);
      $("failed").replaceChildren(explain(error));
      $("failed").hidden = false;
      return;
    }
  }
  jobs.forget(id);
  announce(t("deleted"));
  focusAfter?.();
}

/** What a job was made of goes back to where it can be changed: a translation to its lines, anything else to the form. */
function again(job) {
  if (job.model === "translation") api.emit("edit-translation", { id: job.remixed_from_video_id });
  else form.again(job);
}

async function stop() {
  const id = shown;
  try {
    await jobs.cancel(id);
  } catch (error) {
    if (shown !== id) return;
    $("failed").replaceChildren(explain(error));
    $("failed").hidden = false;
  }
}

function changed({ detail }) {
  const begun = jobs.get(detail.id);
  if (follows && begun.status === "in_progress" && detail.id !== shown && jobs.get(shown)?.status !== "in_progress") show(detail.id);
  if (detail.id !== shown) return void (shown && jobs.get(shown) && caption(jobs.get(shown)));
  const job = jobs.get(detail.id);
  if (detail.before && !ended(detail.before) && ended(job)) {
    announce(job.status === "completed" ? t("ready_word", { prompt: job.prompt }) : t(`state_${job.status}`));
    if (document.activeElement === $("cancel")) $("screen").focus({ preventScroll: true });
  }
  paint();
}

export function start() {
  api.bus.addEventListener("job", changed);
  api.bus.addEventListener("gone", ({ detail }) => detail.id === shown && show(null));
  api.bus.addEventListener("show", ({ detail }) => {
    follows = jobs.get(detail.id)?.status === "in_progress";
    show(detail.id, detail);
  });
  api.bus.addEventListener("asked", ({ detail }) => follow(detail.id));
  $("cancel").addEventListener("click", stop);
  $("link").addEventListener("click", copyLink);
  $("again").addEventListener("click", () => again(jobs.get(shown)));
  $("delete").addEventListener("click", () => remove(shown, () => $("screen").focus({ preventScroll: true })));
  $("how").addEventListener("toggle", () => jobs.get(shown) && caption(jobs.get(shown)));
  $("check").addEventListener("click", () => api.emit("check", { job: jobs.get(shown), picture: isPicture(jobs.get(shown)) }));
  onLanguage(() => {
    if ($("failed").childElementCount) $("failed").replaceChildren();
    paint();
  });
  paint();
}
