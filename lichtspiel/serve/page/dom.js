// Small helpers for elements, and how a job and an error are put into words. All text goes in as text, never as HTML.
import { current, duration, has, number, t } from "./words.js";

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, events as `onclick`, anything else as an attribute) and children. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Rows of a definition list; those without a value are left out. */
export const facts = (rows) =>
  el("dl", { class: "facts" }, ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(
    ([name, value, options]) => [el("dt", { text: name }), el("dd", options ?? {}, value instanceof Node ? value : String(value))]));

/** Say something to those who listen to the page; the same words twice are said twice. */
export function announce(text) {
  const place = $("announce");
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}

export const ended = (job) => ["completed", "failed", "cancelled"].includes(job.status);

const STAGES = [["load", /load/], ["encode", /encod|prompt|read/], ["denoise", /denois/], ["decode", /decod/], ["seal", /seal/], ["listen", /listen/], ["words", /translat/], ["speak", /speak|mix/]];

/** What a job is doing, in a few words. */
export function stateWords(job) {
  if (job.cancelling && !ended(job)) return t("state_cancelling");
  if (job.status !== "in_progress") return t(`state_${job.status}`);
  const stage = STAGES.find(([, pattern]) => pattern.test(job.stage ?? ""));
  return stage ? t(`stage_${stage[0]}`) : job.stage || t("state_in_progress");
}

/** How far it is: place in the queue, or step and time left. */
export function whereWords(job) {
  if (job.status === "queued") return job.position ? t("position", { n: number(job.position) }) : "";
  if (job.status !== "in_progress") return "";
  const parts = [];
  if (job.steps > 0 && job.step > 0) parts.push(t("step_of", { step: number(job.step), steps: number(job.steps) }));
  if (job.eta > 0) parts.push(t("left", { time: duration(job.eta) }));
  return parts.join(" · ");
}

/** Width and height of what a job makes, however they are written. */
export function sizeOf(job) {
  const given = job.size ?? job.parameters?.size ?? "";
  const [width, height] = Array.isArray(given) ? given : String(given).split("x").map(Number);
  const times = job.parameters?.upscale ?? 1;
  return width > 0 && height > 0 ? [width * times, height * times] : null;
}

/** A file name that says what is inside: lichtspiel-a-whale-swims-3f2a.mp4. */
export function fileName(job, ending = "mp4") {
  const words = (job.prompt ?? "").toLowerCase().normalize("NFC").match(/[\p{L}\p{N}]+/gu) ?? [];
  const said = words.join("-").slice(0, 48).replace(/-+$/, "");
  return ["lichtspiel", said, job.id.slice(-4)].filter(Boolean).join("-") + `.${ending}`;
}

/** Whether the policy would let it be made once it is stated who agreed. */
export const asksConsent = (error) =>
  error?.code === "refused_by_policy" && /consent/i.test(error.message) && !/refuse/i.test(error.message);

/** Errors of which the page's own words say all that the server's do. */
const WORDED = ["queue_full", "limit_reached", "storage_used_up", "out_of_memory", "interrupted", "invalid_key"];

/** The name of the words for the policy's rule or category, if there are any. */
function reason(message) {
  const named = (kind) => new RegExp(`${kind} ([\\w. -]*\\w)`).exec(message ?? "")?.[1].replace(/\W/g, "_");
  return [`rule_${named("rule")}`, `category_${named("category")}`].find(has) ?? null;
}

/** What the server said, without what only a terminal has. */
const said = (message) => message.replace(/; say who is shown and that they agreed, with --consent.*$/, "");

/** Put an error into words: what happened, what the server said, what helps, and when to try again. */
export function explain(error) {
  const code = asksConsent(error) ? "consent" : error.code ?? "unknown";
  const known = has(`error_${code}`) ? code : "unknown";
  const how = known === "refused_by_policy" ? "error_refused_how" : `error_${known}_how`;
  const box = el("div", { class: "trouble" }, el("p", {}, el("strong", { text: t(`error_${known}`) })));
  const category = reason(error.message);
  // The server's own sentence says the rule in words, in English.
  if (category && (current() !== "en" || !category.startsWith("rule_"))) box.append(el("p", { text: t("error_because", { category: t(category) }) }));
  const told = current() !== "en" && (category || WORDED.includes(known));
  if (error.message && known !== "network" && !told) box.append(el("p", { class: "said", lang: "en", text: said(error.message) }));
  if (has(how)) box.append(el("p", { text: t(how) }));
  if (error.retry) box.append(countdown(error.retry));
  return box;
}

function countdown(seconds) {
  const line = el("p", { class: "retry", "aria-live": "off" });
  const end = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    line.textContent = left > 0 ? t("error_retry", { time: duration(left) }) : t("error_retry_now");
    if (left > 0 && (line.isConnected || left === seconds)) setTimeout(tick, 1000);
  };
  tick();
  return line;
}
