// The queue of moderation: a video goes in, the verdict comes out with its evidence, and a person decides what is doubtful.
import * as api from "./api.js";
import { $, announce, ended, el, explain } from "./dom.js";
import { current, duration, has, kept, onLanguage, t, when } from "./words.js";

const STORE = "lichtspiel.reviewer";
const PAUSE = { busy: 2000, calm: 15000 };
const shown = new Map(); // id -> { node, seen: what it was drawn from }
let known = []; // newest first
let mayReview = false;
let more = false;
let watch = null;
let open = false;

/** Tell whether this part of the page is looked at: only then is the server asked. */
export function turn(here) {
  const came = here && !open;
  open = here;
  clearTimeout(watch);
  if (came) load();
}

/** What waits for a person comes first, then everything, newest first. */
export async function load() {
  clearTimeout(watch);
  try {
    const [waiting, all] = await Promise.all([api.moderations({ waiting: true }), api.moderations({})]);
    mayReview = all.may_review;
    more = waiting.has_more;
    const found = new Map([...waiting.data, ...all.data].map((one) => [one.id, one]));
    known = [...found.values()];
    $("moderate-error").replaceChildren();
    paint();
  } catch (error) {
    if (error.code !== "invalid_key") $("moderate-error").replaceChildren(explain(error));
  }
  const busy = known.some((one) => !ended(one));
  if (open) watch = setTimeout(load, busy ? PAUSE.busy : PAUSE.calm);
}

const doubtful = (one) => one.decision === "needs_review" && !one.review;
const stateOf = (one) => one.decision ?? (ended(one) ? "cancelled" : one.status);
const nameOf = (one) => one.metadata?.name ?? one.video_id ?? one.id;

function paint() {
  place($("reviews"), known.filter(doubtful));
  place($("moderations"), known.filter((one) => !doubtful(one)));
  const waiting = known.filter(doubtful).length;
  $("reviews-title").textContent = t("reviews", { n: more ? `${waiting}+` : String(waiting) });
  $("reviews-empty").hidden = waiting > 0;
  $("reviewer-field").hidden = !mayReview;
  $("reviews-key").hidden = mayReview;
  $("moderations-title").hidden = known.length === waiting;
}

/** Put the cards of some moderations into a list. A card is drawn anew only when something changed: a note stays. */
function place(list, some) {
  const nodes = some.map((one) => {
    const seen = JSON.stringify([one, current(), mayReview]);
    const old = shown.get(one.id);
    if (old?.seen !== seen) shown.set(one.id, { node: card(one), seen });
    return shown.get(one.id).node;
  });
  if (nodes.some((node, at) => list.children[at] !== node) || list.children.length !== nodes.length) list.replaceChildren(...nodes);
}

function card(one) {
  const state = stateOf(one);
  const name = nameOf(one);
  return el("li", { class: "judgment", "data-state": state },
    el("div", { class: "judgment-head" },
      el("span", { class: "verdict-word", text: t(`moderation_${state}`) }),
      el("h3", { text: name }),
      el("p", { class: "meta", text: [when(new Date(one.created_at * 1000)), one.made_by_ai ? t("moderation_ai") : ""].filter(Boolean).join(" · ") })),
    one.error ? el("p", { class: "said", lang: "en", text: one.error.message }) : null,
    one.reasons.length ? el("ul", { class: "reasons" }, ...one.reasons.map(reason)) : null,
    one.has_sheet && one.reasons.length ? sheet(one, name) : null,
    one.review ? el("p", { class: "reviewed", text: reviewed(one.review) }) : null,
    doubtful(one) && mayReview ? decide(one, name) : null);
}

function reason(each) {
  const category = `category_${each.category.replace(/\W/g, "_")}`;
  const times = each.end > each.start ? t("moderation_times", { start: duration(each.start), end: duration(each.end) }) : t("moderation_whole");
  return el("li", {},
    el("b", { text: has(category) ? t(category) : each.category }),
    el("span", { class: "meta", text: ` · ${times} · ${has(`source_${each.source}`) ? t(`source_${each.source}`) : each.source}` }),
    el("p", { class: "said", lang: "en", text: each.detail }));
}

function sheet(one, name) {
  const picture = el("img", { class: "evidence", alt: t("moderation_evidence", { name }), loading: "lazy" });
  api.media(api.paths.sheet(one.id)).then((address) => { picture.src = address; }, () => picture.remove());
  return picture;
}

function reviewed({ decision, reviewer, created_at, note }) {
  const words = t(`reviewed_${decision}`, { reviewer, time: when(new Date(created_at * 1000)) });
  return note ? `${words}: ${note}` : words;
}

/** The form for a person's decision. */
function decide(one, name) {
  const note = el("input", { type: "text", maxlength: "2000", autocomplete: "off", "aria-label": t("review_note"), placeholder: t("review_note") });
  const trouble = el("div", { role: "alert" });
  const buttons = ["allowed", "refused"].map((decision) =>
    el("button", { type: "button", class: decision === "allowed" ? "strong" : "danger", text: t(`review_${decision}`), onclick: () => send(decision) }));
  async function send(decision) {
    const reviewer = $("reviewer").value.trim();
    $("reviewer-error").textContent = reviewer ? "" : t("reviewer_missing");
    $("reviewer").setAttribute("aria-invalid", String(!reviewer));
    if (!reviewer) return void $("reviewer").focus();
    kept.set(STORE, reviewer);
    for (const button of buttons) button.disabled = true;
    try {
      const made = await api.review(one.id, { decision, reviewer, note: note.value });
      known = known.map((each) => (each.id === one.id ? made : each));
      paint();
      announce(`${name}: ${reviewed(made.review)}`);
    } catch (error) {
      trouble.replaceChildren(explain(error));
      for (const button of buttons) button.disabled = false;
    }
  }
  return el("div", { class: "decide" }, note, el("div", { class: "actions" }, ...buttons), trouble);
}

/** Send files to be judged, one after the other. */
async function judge(files) {
  $("moderate-error").replaceChildren();
  $("moderate-drop").classList.add("busy");
  try {
    for (const file of files) {
      $("moderate-wait").textContent = t("moderate_wait", { name: file.name });
      await api.moderate(file, file.name);
    }
    await load();
  } catch (error) {
    $("moderate-error").replaceChildren(explain(error));
  } finally {
    $("moderate-wait").textContent = "";
    $("moderate-drop").classList.remove("busy");
  }
}

export function start() {
  const drop = $("moderate-drop");
  $("reviewer").value = kept.get(STORE) ?? "";
  $("moderate-file").addEventListener("change", () => {
    const files = [...$("moderate-file").files];
    $("moderate-file").value = "";
    if (files.length) judge(files);
  });
  $("moderate").addEventListener("dragover", (event) => [...(event.dataTransfer?.types ?? [])].includes("Files") && drop.classList.add("over"));
  for (const leaving of ["dragleave", "drop"]) $("moderate").addEventListener(leaving, () => drop.classList.remove("over"));
  $("moderate").addEventListener("drop", (event) => {
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) judge(files);
  });
  onLanguage(paint);
}

/** Forget what another key may see. */
export function forget() {
  known = [];
  shown.clear();
  paint();
  if (open) load();
}
