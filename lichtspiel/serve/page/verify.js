// The bench for checking: any video or picture goes in, what it proves comes out.
import * as api from "./api.js";
import { $, announce, el, explain, facts, fileName, icon } from "./dom.js";
import * as form from "./form.js";
import { current, has, number, onLanguage, t, when } from "./words.js";

let report = null;
let name = "";
let running = null;

/** Check a file; a later one replaces it. */
export async function check(file, called) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  report = null;
  name = called;
  $("report").hidden = true;
  $("verify-error").replaceChildren();
  $("verify-wait").textContent = t("verify_wait", { name });
  $("drop").classList.add("busy");
  try {
    const blob = typeof file === "function" ? await file() : file;
    report = await api.verify(blob, name, signal);
    paint();
    $("report").focus({ preventScroll: true });
    announce(`${t(`verdict_${kind(report)}`)}. ${t(`about_${kind(report)}`)}`);
  } catch (error) {
    if (!signal.aborted) $("verify-error").replaceChildren(explain(error));
  } finally {
    if (!signal.aborted) {
      $("verify-wait").textContent = "";
      $("drop").classList.remove("busy");
    }
  }
}

function kind(found) {
  const { state, here } = found.credentials;
  if (state === "trusted" && here) return "here";
  if (state === "none" && found.watermark?.found) return "marked";
  return state;
}

const UNTRUSTED = "signingCredential.untrusted"; // what the verdict says in words
const PROGRAMS = ["model", "weights", "computed", "latents", "device", "attention", "compile"]; // for programs, or said elsewhere
const SYMBOLS = { here: "trusted" };
const date = (text) => (text && !Number.isNaN(Date.parse(text)) ? when(new Date(text)) : text);
const list = (items) => (items?.length ? el("ul", {}, ...items.map((text) => el("li", { text }))) : null);

function paint() {
  if (!report) return;
  const verdict = kind(report);
  $("report").dataset.kind = verdict;
  $("report").replaceChildren(
    el("div", { class: "verdict" }, icon(SYMBOLS[verdict] ?? verdict), el("div", {},
      el("h2", { id: "report-title", text: t(`verdict_${verdict}`) }),
      // The server speaks English; in other languages its sentence stands below ours.
      current() === "en" ? null : el("p", { class: "lead", text: t(`about_${verdict}`) }),
      el("p", { class: current() === "en" ? "lead" : "said", lang: "en", text: report.verdict }),
      el("p", { class: "meta", text: name }))),
    section(verdict === "tampered" ? "claimed_title" : "found_title", facts(findings())),
    ...parameters(),
    el("p", { class: "about", text: t("anybody") }),
  );
  $("report").hidden = false;
}

const section = (title, body) => el("section", {}, el("h3", { text: t(title) }), body);

function findings() {
  const said = report.credentials;
  const entry = report.record;
  const labels = report.labels ?? {};
  return [
    [t("found_signer"), said.signer && [said.signer.name, said.signer.organisation].filter(Boolean).join(", ")],
    [t("found_created"), date(said.created)],
    [t("found_stamp"), date(said.time)],
    [t("found_software"), said.software],
    [t("model"), said.model],
    [t("found_watermark"), watermark(report.watermark ?? {})],
    [t("found_aigc"), labels.aigc ? list(Object.entries(labels.aigc).map((pair) => pair.join(": "))) : t("found_none")],
    [t("found_comment"), labels.comment || t("found_none")],
    [t("found_inputs"), list((said.ingredients ?? []).map((each) => t(`input_${each.state}`, { role: each.role })))],
    [t("found_problems"), list((said.problems ?? []).filter((one) => said.state !== "intact" || !one.startsWith(UNTRUSTED)))],
    [t("found_record"), entry && t("record_word", { time: date(entry.created), model: entry.model })],
    [t("found_notes"), list(report.notes)],
  ];
}

function watermark(mark) {
  if (!mark.found) return t("watermark_no");
  const words = t(mark.id ? "watermark_yes" : "watermark_unread", { id: mark.id, score: number(mark.score, 1) });
  return mark.mirrored ? `${words}; ${t("watermark_mirrored")}` : words;
}

const NAMES = { frames: "length", dtype: "how_dtype" };
const called = (field) => (has(NAMES[field] ?? field) ? t(NAMES[field] ?? field) : field.replaceAll("_", " "));

/** What the signed record says the video was made with. */
function parameters() {
  const said = report.credentials.generation;
  if (!said) return [];
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const empty = (value) => value === null || value === false || (Array.isArray(value) && !value.length);
  const text = (value) => (value && typeof value === "object" ? value.text ?? t("not_stored") : value);
  const rows = [[t("prompt"), text(said.prompt)], [t("negative"), text(said.negative)]];
  for (const [field, value] of Object.entries(said.parameters ?? {})) {
    const text = field === "size" && Array.isArray(value) ? value.join(" × ") : shown(value);
    if (!empty(value) && !PROGRAMS.includes(field) && value !== form.usual(field)) rows.push([called(field), text, { class: "code" }]);
  }
  return rows.some(([, value]) => value) ? [section("parameters_title", facts(rows))] : [];
}

export function start() {
  const drop = $("drop");
  const over = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) check(file, file.name);
    $("file").value = "";
  });
  $("verify").addEventListener("dragover", (event) => over(event) && drop.classList.add("over"));
  for (const leaving of ["dragleave", "drop"]) $("verify").addEventListener(leaving, () => drop.classList.remove("over"));
  $("verify").addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (file) check(file, file.name);
  });
  api.bus.addEventListener("check", ({ detail }) => {
    location.hash = "verify";
    check(() => api.content(detail.job.id), fileName(detail.job, detail.picture ? "png" : "mp4"));
  });
  onLanguage(() => { $("verify-error").replaceChildren(); paint(); });
}
