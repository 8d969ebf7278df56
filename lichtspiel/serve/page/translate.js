// Translating a video: it goes in with a language, its lines come out to be edited beside it, and the video is made of
// them. Builds its own part of the page.
import * as api from "./api.js";
import { $, announce, asksConsent, el, ended, explain, icon, stateWords } from "./dom.js";
import * as jobs from "./jobs.js";
import { ago, current, fill, number, onLanguage, t } from "./words.js";

const DRAFTS = "v1/videos/translations";
const USUAL = ["en", "de", "zh", "es", "fr", "it", "pt", "ja", "ko", "ru", "ar", "hi"];

let offered = null; // what the server can do
let opened = null; // the draft in the editor
let lines = []; // its lines as they are now: {start, end, text, original, speaker}
let track = null;
let chosen = {}; // files by field
let replacing = []; // what is to stand in the picture, as far as it was changed
const drafts = new Map();
const streams = new Map();

const field = (id, label, control, hint) =>
  el("div", { class: "field" }, el("label", { for: id, "data-t": label }), control, hint ? el("small", { id: `${id}-hint`, "data-t": hint }) : null);
const check = (id, label) =>
  el("label", { class: "check", for: id }, el("input", { type: "checkbox", id }), el("span", { "data-t": label }));

/** A field for a file. Browsers write their own words beside such a field, in their own language, so it has a button. */
const file = (id, label, accept, hint) =>
  el("div", { class: "field" }, el("span", { class: "label", id: `${id}-label`, "data-t": label }),
    el("input", { class: "sr", type: "file", id, accept, "aria-labelledby": `${id}-label ${id}-name` }),
    el("label", { class: "pick", for: id }, el("span", { id: `${id}-name`, "data-t": "tr_file" })),
    el("small", { id: `${id}-hint`, "data-t": hint }));

/** The name of a language in the reader's own. */
function nameOf(code) {
  try { return new Intl.DisplayNames([current()], { type: "language" }).of(code) ?? offered?.languages[code] ?? code; } catch { return offered?.languages[code] ?? code; }
}

function build() {
  $("translate").append(
    el("div", { class: "translating" },
      el("form", { id: "tr-form", novalidate: true },
        el("h1", { "data-t": "tr_title" }),
        el("p", { class: "lead", "data-t": "tr_lead" }),
        el("div", { class: "drop", id: "tr-drop" },
          el("input", { class: "sr", type: "file", id: "tr-video", accept: "video/*" }),
          el("label", { for: "tr-video" }, icon("film"), el("b", { id: "tr-name", "data-t": "tr_drop" }), el("small", { "data-t": "tr_choose" }))),
        el("div", { class: "row" },
          field("tr-from", "tr_from", el("select", { id: "tr-from" })),
          field("tr-to", "tr_to", el("select", { id: "tr-to" }))),
        el("p", { class: "about", id: "tr-pair", role: "status" }),
        file("tr-subtitles", "tr_subtitles", ".srt,.vtt,.ass", "tr_subtitles_hint"),
        file("tr-glossary", "tr_glossary", ".txt,text/plain", "tr_glossary_hint"),
        check("tr-picture", "tr_picture"),
        el("div", { id: "tr-error", role: "alert" }),
        el("button", { type: "submit", id: "tr-start", class: "primary" }, el("span", { "data-t": "tr_start" }))),
      el("section", { class: "drafts", "aria-labelledby": "tr-drafts-title" },
        el("h2", { id: "tr-drafts-title", "data-t": "tr_drafts" }),
        el("p", { class: "about", id: "tr-none", "data-t": "tr_none" }),
        el("ul", { id: "tr-drafts" }))),
    el("section", { id: "tr-editor", class: "editor", "aria-labelledby": "tr-editor-title", tabindex: "-1", hidden: true },
      el("h2", { id: "tr-editor-title" }),
      el("ul", { class: "notes", id: "tr-notes", lang: "en", hidden: true }),
      el("section", { id: "tr-written", hidden: true },
        el("h3", { "data-t": "tr_written" }),
        el("ul", { id: "tr-texts", class: "notes" }),
        check("tr-remake", "tr_remake")),
      el("div", { class: "beside" },
        el("div", { class: "player" },
          el("video", { id: "tr-player", controls: true, playsinline: true, preload: "metadata", "data-t-label": "tr_player" }),
          el("div", { class: "wishes" },
            check("tr-voice", "tr_voice"),
            el("div", { id: "tr-voiced", hidden: true },
              field("tr-consent", "tr_consent", el("input", { id: "tr-consent", type: "text", autocomplete: "off", "data-t-placeholder": "tr_consent_hint" })),
              field("tr-original", "tr_original", el("select", { id: "tr-original" })),
              check("tr-label", "tr_label"),
              check("tr-follow", "tr_follow")),
            check("tr-burn", "tr_burn"),
            check("tr-both", "tr_both"),
            el("p", { class: "about", id: "tr-lips", "data-t": "tr_lips", hidden: true }),
            el("div", { id: "tr-render-error", role: "alert" }),
            el("button", { type: "button", id: "tr-render", class: "primary" }, el("span", { "data-t": "tr_render" })),
            el("button", { type: "button", id: "tr-delete", class: "quiet" }, icon("bin"), el("span", { "data-t": "tr_delete" })))),
        el("ol", { id: "tr-lines", class: "lines" }))),
  );
}

// The form

function options(select, codes, first) {
  const before = select.value;
  const named = codes.map((code) => [code, nameOf(code)]).sort((a, b) => a[1].localeCompare(b[1], current()));
  const usual = named.filter(([code]) => USUAL.includes(code));
  const rest = named.filter(([code]) => !USUAL.includes(code));
  const option = ([value, text]) => el("option", { value, text });
  select.replaceChildren(...(first ? [option(["", first])] : []), ...usual.map(option), ...(usual.length && rest.length ? [el("hr")] : []), ...rest.map(option));
  if ([...select.options].some((one) => one.value === before)) select.value = before;
}

function fillForm() {
  const codes = Object.keys(offered?.languages ?? {});
  const fresh = !$("tr-to").options.length;
  options($("tr-from"), codes, t("tr_from_any"));
  options($("tr-to"), codes);
  if (fresh && codes.length) $("tr-to").value = offered.pairs?.[0]?.[1] ?? (current() === "en" ? "es" : current());
  const before = $("tr-original").value || "duck";
  $("tr-original").replaceChildren(...["duck", "remove", "keep"].map((value) => el("option", { value, text: t(`tr_original_${value}`) })));
  $("tr-original").value = before;
  $("tr-picture").parentElement.hidden = !offered?.reads_pictures;
  $("tr-follow").parentElement.hidden = !offered?.lips;
  pair();
}

/** Say under the languages when nothing here translates between them, so that words have to be brought. */
function pair() {
  if (!offered) return;
  const [from, to] = [$("tr-from").value || "en", $("tr-to").value];
  const possible = !offered.pairs || offered.pairs.some(([one, other]) => one === from && other === to);
  const known = (offered.pairs ?? []).map(([one, other]) => `${nameOf(one)} → ${nameOf(other)}`).join(", ");
  const told = offered.available ? t("tr_no_pair", { from: nameOf(from), to: nameOf(to), pairs: known || t("tr_no_pairs") }) : t("tr_unavailable");
  $("tr-pair").textContent = offered.available && (possible || chosen.subtitles) ? "" : told;
  $("tr-start").disabled = !offered.available;
}

function take(file) {
  if (!file) return;
  chosen.video = file;
  delete $("tr-name").dataset.t;
  $("tr-name").textContent = file.name;
  $("tr-error").replaceChildren();
}

/** Show the name of the file that a field holds. */
function picked(id) {
  const [chosenFile] = $(id).files;
  if (chosenFile) delete $(`${id}-name`).dataset.t;
  else $(`${id}-name`).dataset.t = "tr_file";
  $(`${id}-name`).textContent = chosenFile?.name ?? t("tr_file");
}

async function submit(event) {
  event.preventDefault();
  $("tr-error").replaceChildren();
  if (!chosen.video) return void $("tr-error").append(el("p", { class: "wrong", text: t("tr_missing") }));
  const form = new FormData();
  form.append("to", $("tr-to").value);
  if ($("tr-from").value) form.append("from", $("tr-from").value);
  form.append("metadata", JSON.stringify({ file: chosen.video.name.slice(0, 200) }));
  form.append("video", chosen.video, chosen.video.name);
  if (chosen.subtitles) form.append("subtitles", chosen.subtitles, chosen.subtitles.name);
  if ($("tr-glossary").files[0]) form.append("glossary", $("tr-glossary").files[0]);
  if ($("tr-picture").checked) form.append("picture_text", "tell");
  $("tr-start").setAttribute("aria-busy", "true");
  $("tr-start").disabled = true;
  try {
    const job = await data(DRAFTS, { method: "POST", form });
    put(job);
    opened = job.id;
  } catch (error) {
    $("tr-error").replaceChildren(explain(error));
  } finally {
    $("tr-start").removeAttribute("aria-busy");
    pair();
  }
}

const data = async (path, options) => (await api.ask(path, options)).json();
const at = (id, rest = "") => `${DRAFTS}/${encodeURIComponent(id)}${rest}`;

// The drafts

function put(job) {
  const before = drafts.get(job.id);
  drafts.set(job.id, job);
  if (!ended(job) && !streams.has(job.id)) {
    streams.set(job.id, api.follow(job.id, put, () => streams.delete(job.id)));
  }
  if (ended(job)) {
    streams.get(job.id)?.close();
    streams.delete(job.id);
    if (before && !ended(before) && opened === job.id && job.status === "completed") open(job.id);
  }
  paintDrafts();
}

function card(job) {
  const name = job.metadata?.file ?? job.id;
  const say = [`${job.from && job.from !== "und" ? nameOf(job.from) : "…"} → ${nameOf(job.to)}`, stateWords(job), ago(new Date(job.created_at * 1000))].join(" · ");
  const item = el("li", { class: "draft", "data-id": job.id, "data-state": job.status },
    el("button", { type: "button", class: "plain", disabled: job.status !== "completed", onclick: () => open(job.id) }, el("b", { text: name }), el("small", { text: say })));
  if (!ended(job)) item.append(el("button", { type: "button", class: "quiet", text: t("tr_cancel"), onclick: () => cancel(job.id) }));
  else if (job.status !== "completed") item.append(el("button", { type: "button", class: "quiet", text: t("tr_delete"), onclick: () => remove(job.id) }));
  if (job.error) item.append(explain(job.error));
  return item;
}

function paintDrafts() {
  const all = [...drafts.values()].sort((a, b) => b.created_at - a.created_at);
  $("tr-drafts").replaceChildren(...all.map(card));
  $("tr-none").hidden = all.length > 0;
}

async function load() {
  try {
    offered = await data("v1/languages");
    fillForm();
    for (const job of (await data(DRAFTS)).data) put(job);
  } catch (error) {
    if (error.code !== "invalid_key") $("tr-error").replaceChildren(explain(error));
  }
}

async function cancel(id) {
  try { put(await api.cancel(id)); } catch (error) { $("tr-error").replaceChildren(explain(error)); }
}

async function remove(id) {
  try { await api.remove(id); } catch (error) {
    if (error.code !== "not_found") return void $("tr-error").replaceChildren(explain(error));
  }
  drafts.delete(id);
  if (opened === id) close();
  paintDrafts();
}

// The editor

async function open(id) {
  const job = drafts.get(id);
  if (!job?.lines) return;
  opened = id;
  lines = job.lines.map((line) => ({ ...line }));
  $("tr-editor").hidden = false;
  $("tr-render-error").replaceChildren();
  name();
  $("tr-notes").replaceChildren(...job.notes.map((text) => el("li", { text })));
  $("tr-notes").hidden = !job.notes.length;
  $("tr-lines").replaceChildren(...lines.map(row));
  $("tr-editor").scrollIntoView({ block: "start" });
  $("tr-editor").focus({ preventScroll: true });
  replacing = [];
  $("tr-remake").checked = false;
  texts(job);
  $("tr-label").checked = false;
  voiced();
  announce(t("tr_ready", { n: number(lines.length) }));
  const player = $("tr-player");
  player.src = await api.media(at(id, "/original"));
  track ??= player.addTextTrack("subtitles");
  track.mode = "showing";
  show();
}

/** What is written in the picture, with its times, where that was asked for; and what is to stand there instead, where
 * the server can do that. */
function texts(job) {
  $("tr-written").hidden = !job.written?.length;
  const remade = offered?.remakes_pictures && $("tr-remake").checked;
  $("tr-remake").parentElement.hidden = !offered?.remakes_pictures;
  $("tr-texts").replaceChildren(...(job.written ?? []).map((one, index) => el("li", { class: "written" },
    el("span", { text: t("tr_written_at", { from: number(one.start), to: number(one.end) }) }), " ",
    el("b", { dir: "auto", lang: job.from ?? "", text: one.text }), " ",
    remade ? instead(job, one, index) : one.translation ? el("span", { dir: "auto", lang: job.to, text: `= ${one.translation}` }) : null)));
}

function instead(job, one, index) {
  const input = el("input", { type: "text", maxlength: "200", lang: job.to, dir: "auto", "aria-label": t("tr_text", { n: number(index + 1) }) });
  input.value = replacing[index] ?? one.translation ?? "";
  input.addEventListener("input", () => { replacing[index] = input.value; });
  return input;
}

function close() {
  opened = null;
  lines = [];
  $("tr-player").pause();
  $("tr-player").removeAttribute("src");
  $("tr-editor").hidden = true;
}

function name() {
  const job = drafts.get(opened);
  if (job) $("tr-editor-title").textContent = t("tr_editor", { name: job.metadata?.file ?? "", language: nameOf(job.to) });
}

function time(line, edge, index) {
  const input = el("input", { type: "number", min: "0", step: "0.1", "aria-label": t(`tr_${edge}_of`, { n: number(index + 1) }) });
  input.value = line[edge].toFixed(2);
  input.addEventListener("change", () => {
    const value = Number(input.value);
    if (input.value !== "" && Number.isFinite(value)) line[edge] = value;
    input.setAttribute("aria-invalid", String(line.end <= line.start));
    show();
  });
  return input;
}

function row(line, index) {
  const text = el("textarea", { rows: "2", lang: drafts.get(opened).to, dir: "auto", "aria-label": t("tr_line", { n: number(index + 1) }) });
  text.value = line.text;
  text.addEventListener("input", () => { line.text = text.value; show(); });
  text.addEventListener("focus", () => { if ($("tr-player").paused) $("tr-player").currentTime = line.start + 0.01; });
  const said = line.original && line.original !== line.text ? el("p", { class: "about", lang: drafts.get(opened).from ?? "", text: line.original }) : null;
  return el("li", { "data-index": index },
    el("div", { class: "times-of" }, el("button", { type: "button", class: "plain", text: String(index + 1), "aria-label": t("tr_seek", { n: number(index + 1) }), onclick: () => seek(line) }),
      time(line, "start", index), el("span", { "aria-hidden": "true", text: "–" }), time(line, "end", index)),
    said, text);
}

function seek(line) {
  $("tr-player").currentTime = line.start + 0.01;
  $("tr-player").play().catch(() => {});
}

/** The lines as they are now, on the video. */
function show() {
  for (const cue of [...(track?.cues ?? [])]) track.removeCue(cue);
  for (const line of lines) {
    const text = line.text.trim().replaceAll("&", "&amp;").replaceAll("<", "&lt;"); // a cue is WebVTT
    if (text && line.end > line.start) track?.addCue(new VTTCue(line.start, line.end, text));
  }
}

function follow() {
  const now = $("tr-player").currentTime;
  for (const item of $("tr-lines").children) {
    const line = lines[Number(item.dataset.index)];
    item.classList.toggle("now", line && line.start <= now && now < line.end);
  }
}

async function render() {
  const job = drafts.get(opened);
  if (!job) return;
  const voice = $("tr-voice").checked;
  const wishes = { voice, burn: $("tr-burn").checked, both: $("tr-both").checked };
  if (voice) Object.assign(wishes, { original: $("tr-original").value, consent: $("tr-consent").value.trim() || undefined });
  if (voice && $("tr-label").checked) wishes.spoken_label = true;
  if (voice && $("tr-follow").checked) wishes.lips = true;
  if (job.written?.length && $("tr-remake").checked) {
    Object.assign(wishes, { picture_text: "replace", texts: job.written.map((one, index) => replacing[index] ?? one.translation) });
  }
  const sent = lines.map(({ start, end, text, speaker }) => ({ start, end, text, speaker }));
  $("tr-render-error").replaceChildren();
  $("tr-render").setAttribute("aria-busy", "true");
  try {
    const made = await data(at(job.id, "/render"), { method: "POST", json: { ...wishes, lines: sent } });
    jobs.put(made);
    location.hash = "create";
    api.emit("asked", { id: made.id });
  } catch (error) {
    $("tr-render-error").replaceChildren(explain(error));
    if (asksConsent(error)) $("tr-consent").focus();
  } finally {
    $("tr-render").removeAttribute("aria-busy");
  }
}

function voiced() {
  $("tr-voiced").hidden = !$("tr-voice").checked;
  $("tr-lips").hidden = !$("tr-voice").checked || $("tr-follow").checked;
  $("tr-label").parentElement.hidden = !offered?.spoken_label.includes(drafts.get(opened)?.to);
}

export function start() {
  build();
  fill($("translate"));
  $("tr-form").addEventListener("submit", submit);
  for (const id of ["tr-from", "tr-to"]) $(id).addEventListener("change", pair);
  $("tr-video").addEventListener("change", () => take($("tr-video").files[0]));
  $("tr-subtitles").addEventListener("change", () => { [chosen.subtitles] = $("tr-subtitles").files; picked("tr-subtitles"); pair(); });
  $("tr-glossary").addEventListener("change", () => picked("tr-glossary"));
  $("tr-drop").addEventListener("dragover", (event) => event.preventDefault());
  $("tr-drop").addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer?.files[0]); });
  $("tr-player").addEventListener("timeupdate", follow);
  for (const id of ["tr-voice", "tr-follow"]) $(id).addEventListener("change", voiced);
  $("tr-remake").addEventListener("change", () => texts(drafts.get(opened)));
  $("tr-render").addEventListener("click", render);
  $("tr-delete").addEventListener("click", () => remove(opened));
  api.bus.addEventListener("edit-translation", async ({ detail }) => {
    location.hash = "translate";
    if (!drafts.has(detail.id)) await data(at(detail.id)).then(put, (error) => $("tr-error").replaceChildren(explain(error)));
    open(detail.id);
  });
  const entered = () => { if (location.hash === "#translate" && !offered) load(); };
  addEventListener("hashchange", entered);
  onLanguage(() => { fillForm(); paintDrafts(); name(); if (opened) texts(drafts.get(opened)); $("tr-lines").replaceChildren(...lines.map(row)); });
  entered();
}
