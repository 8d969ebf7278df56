// The form that asks for a video: what a model takes, what was given, and what the server thinks of it.
import * as api from "./api.js";
import * as draft from "./draft.js";
import { $, announce, asksConsent, el, explain } from "./dom.js";
import * as jobs from "./jobs.js";
import * as pictures from "./pictures.js";
import { current, duration, has, number, onLanguage, t } from "./words.js";

const NUMBERS = ["steps", "guidance", "shift"];
const FIELDS = ["prompt", "image", "consent", "model", "size", "frames", ...NUMBERS, "seed", "solver", "upscale", "lora", "negative"];
const PLACES = { last_image: "image", input_reference: "image", last_reference: "image", video: "image", mask: "image", references: "image", seconds: "frames", fit: "size" };
const MOST = 8; // videos at once
const PAUSE = 400; // milliseconds after the last letter

/** Fields whose choices have words of their own; the others are called as the server calls them. */
const CHOICES = { upscale: (value) => `upscale_${value}`, fit: (value) => `fit_${value}` };

let models = [];
let loras = [];
let options = {};
let sending = false;
let consentAsked = false;

const chosen = () => models.find((model) => model.id === $("model").value);
const makesPictures = (model) => model?.max_frames === 1;
/** The value of a field that it has unless another one is chosen. */
export const usual = (field) => options[field]?.default;
export const modelOf = (id) => models.find((model) => model.id === id);

/** Learn which models there are; what was chosen stays chosen. */
export async function load() {
  ({ data: models, options, loras = [] } = await api.models());
  const first = !$("model").options.length;
  setOptions();
  setLoras();
  const before = $("model").value;
  $("model").replaceChildren(...models.map((model) => el("option", { value: model.id })));
  if (!models.length) $("model").append(el("option", { value: "", text: t("model_none") }));
  if (models.some((model) => model.id === before)) $("model").value = before;
  name();
  if (before !== $("model").value) setModel();
  else fitPictures();
  if (first) await resume();
}

/** Put back what stood here before a reload. */
async function resume() {
  const kept = draft.kept();
  if (!kept) return;
  await draft.quietly(() => {
    if (modelOf(kept.fields.model)) $("model").value = kept.fields.model;
    pictures.set(kept.files);
    consentAsked = kept.consent;
    setModel();
    for (const name of draft.names) {
      const field = $(name);
      const fits = !(field instanceof HTMLSelectElement) || [...field.options].some((option) => option.value === kept.fields[name]);
      if (fits && name !== "model") field.value = kept.fields[name] ?? field.value;
    }
    $("own").hidden = $("size").value !== "own";
    $("details").open = kept.details;
    about();
  });
  note();
}

/** The LoRA that the server offers. */
function setLoras() {
  const before = $("lora").value;
  $("lora").replaceChildren(el("option", { value: "", "data-t": "lora_none", text: t("lora_none") }), ...loras.map((name) => el("option", { value: name, text: name })));
  $("lora").value = loras.includes(before) ? before : "";
  $("lora-field").hidden = !loras.length;
}

/** The choices and bounds of the fields, as the server has them. */
function setOptions() {
  for (const [name, rule] of Object.entries(options)) {
    const field = $(name);
    if (field instanceof HTMLSelectElement && rule.enum) {
      const before = field.value;
      const open = "default" in rule || name in CHOICES ? [] : [el("option", { value: "", "data-t": "solver_default", text: t("solver_default") })];
      field.replaceChildren(...open, ...rule.enum.map((value) => {
        const word = CHOICES[name]?.(value);
        return el("option", has(word) ? { value, "data-t": word, text: t(word) } : { value, text: value });
      }));
      field.value = before || (rule.default ?? "");
    } else if (field?.type === "number") {
      Object.assign(field, { min: rule.minimum ?? rule.exclusiveMinimum, max: rule.maximum, step: rule.type === "integer" ? 1 : "any" });
    } else if (field && rule.maxLength) field.maxLength = rule.maxLength;
  }
}

function name() {
  for (const option of $("model").options) {
    const model = modelOf(option.value);
    if (model) option.textContent = model.state === "loading" ? `${model.id} (${t("model_loading")})` : model.id;
  }
}

/** Everything that depends on the model, at its defaults. */
function setModel() {
  const model = chosen();
  if (!model) return;
  Object.assign($("frames"), { min: 1, max: model.max_frames, value: model.frames });
  $("frames-field").hidden = makesPictures(model);
  for (const field of NUMBERS) $(field).value = model[field];
  $("negative").value = model.negative ?? "";
  $("solver").value = "";
  $("upscale").value = String(enlarged(model));
  $("lora").value = "";
  $("lora_strength").value = "1";
  fitPictures();
  examples();
}

function setSizes() {
  const model = chosen();
  const before = $("size").value;
  const like = model.free_size && (pictures.given().image || pictures.given().video);
  $("size").replaceChildren(
    ...(like ? [el("option", { value: "picture", text: t("size_picture") })] : []),
    ...model.sizes.map((size) => el("option", { value: size, text: size.replace("x", " × ") })),
    ...(model.free_size ? [el("option", { value: "own", text: t("size_own") })] : []),
  );
  if ([...$("size").options].some((option) => option.value === before)) $("size").value = before;
  $("own").hidden = $("size").value !== "own";
}

/** What the model does with pictures decides which places for them there are. */
function fitPictures() {
  const model = chosen();
  if (!model) return;
  pictures.offer(model.tasks);
  const given = pictures.given();
  $("consent-field").hidden = !Object.keys(given).length && !consentAsked;
  $("fit-field").hidden = !given.image && !given.video;
  $("frames").min = given.last_image ? 5 : 1;
  setSizes();
  about();
}

function about() {
  const model = chosen();
  if (!model) return;
  const word = `model_${model.id.replace(/\W/g, "_")}`;
  $("model-about").textContent = has(word) ? t(word) : model.title ?? "";
  $("model-about").lang = has(word) ? current() : "en";
  const frames = Number($("frames").value);
  $("frames-word").textContent = t("length_word", { frames: number(frames), seconds: duration(frames / model.fps) });
  $("frames").setAttribute("aria-valuetext", $("frames-word").textContent);
  const count = Object.keys(details(model)).length;
  $("changed").textContent = count ? t("details_changed", { n: number(count) }) : "";
}

const enlarged = (model) => model.upscale ?? 1; // how much larger frames become without asking

/** The details that differ from what the model would do by itself. An emptied negative prompt is meant to be empty. */
function details(model) {
  const fields = {};
  for (const field of NUMBERS) {
    if ($(field).value !== "" && Number($(field).value) !== model[field]) fields[field] = Number($(field).value);
  }
  if (!makesPictures(model) && Number($("frames").value) !== model.frames) fields.frames = Number($("frames").value);
  const seed = $("seed").value.trim();
  if (seed) fields.seed = Number.isSafeInteger(Number(seed)) ? Number(seed) : seed;
  if ($("solver").value) fields.solver = $("solver").value;
  if (Number($("upscale").value) !== enlarged(model)) fields.upscale = Number($("upscale").value);
  if ($("negative").value !== (model.negative ?? "")) fields.negative = $("negative").value;
  if (!$("fit-field").hidden && $("fit").value !== options.fit.default) fields.fit = $("fit").value;
  if ($("lora").value) fields.lora = [`${$("lora").value}:${Number($("lora_strength").value)}`];
  return fields;
}

function read() {
  const model = chosen();
  const given = pictures.given();
  const fields = { prompt: $("prompt").value.trim(), model: model.id, ...details(model) };
  const size = $("size").value === "own" ? `${$("width").value}x${$("height").value}` : $("size").value;
  if (size && size !== "picture") fields.size = size;
  if (!$("consent-field").hidden && $("consent").value.trim()) fields.consent = $("consent").value.trim();
  const files = Object.fromEntries(Object.entries(given).map(([role, list]) => [pictures.ROLES[role].field, list]));
  return { fields, files };
}

// What is wrong, where it is wrong

function clear() {
  for (const field of FIELDS) wrong(field, "");
  $("form-error").replaceChildren();
}

function wrong(field, text) {
  $(`${field}-error`).textContent = text;
  if (text) $(field).setAttribute("aria-invalid", "true");
  else $(field).removeAttribute("aria-invalid");
}

function point(field, text) {
  wrong(field, text);
  if ($("details").contains($(field))) $("details").open = true;
  $(field).focus();
}

/** The first thing that can be seen to be wrong without asking; whether there was none. */
function sound(model) {
  const given = pictures.given();
  const { tasks } = model;
  if (!$("prompt").value.trim()) return void point("prompt", t("prompt_missing"));
  if (tasks.includes("edit") && !tasks.includes("text") && !given.video && !given.references) return void point("image", t("video_missing"));
  if (!given.image && !tasks.includes("text") && !tasks.includes("edit")) {
    return void point("image", t(tasks.includes("image") ? "image_missing" : "image_last_missing"));
  }
  if (given.image && !given.last_image && !tasks.includes("image")) return void point("image", t("image_last_missing"));
  for (const field of NUMBERS) {
    if (!$(field).validity.valid) return void point(field, t("number_wrong"));
  }
  if (!/^\d{0,19}$/.test($("seed").value.trim())) return void point("seed", t("seed_wrong"));
  return true;
}

/** Nothing can be asked for before the server has told its models: it wants a key, or it is away. */
function without() {
  if ($("key-form").hidden) refuse(new api.ApiError("", { code: "network" }));
  else $("key").focus();
}

function refuse(error) {
  $("form-error").replaceChildren(explain(error));
  const field = PLACES[error.param] ?? error.param;
  if (FIELDS.includes(field) && error.code === "invalid_request") {
    $("form-error").replaceChildren();
    point(field, `${t("error_invalid_request")} ${inWords(error.message)}`);
  } else if (asksConsent(error)) askConsent(); // words alone may ask for it, too
  // What is said stands where it can be answered: open details would push the button far away from the field.
  $(asksConsent(error) ? "consent" : "generate").before($("form-error"));
  showTrouble();
}

/** Bring what went wrong into view as a whole. */
function showTrouble() {
  if ($("form-error").childElementCount) $("form-error").scrollIntoView({ block: "nearest" });
}

/** What the server said of a value, in the reader's language where it names one that would be accepted. */
function inWords(message) {
  const nearest = current() !== "en" && /nearest valid (?:value|name): (.+)$/.exec(message);
  return nearest ? t("error_nearest", { value: nearest[1] }) : message;
}

/** Ask who is shown and that they agreed. */
export function askConsent() {
  consentAsked = true;
  $("consent-field").hidden = false;
  $("consent").focus();
}

async function send(event) {
  event.preventDefault();
  const model = chosen();
  if (sending || $("generate").disabled) return;
  clear();
  if (!model) return void without();
  if (!sound(model)) return;
  busy(true);
  try {
    const { fields, files } = read();
    const count = Number($("count").value) || 1;
    for (let number = 0; number < count; number += 1) {
      const seed = fields.seed === undefined ? {} : { seed: String(BigInt(fields.seed) + BigInt(number)) };
      const job = await api.create({ ...fields, ...(number ? seed : {}) }, files);
      if (Object.keys(files).length) jobs.keepFiles(job.id, pictures.given());
      jobs.put(job);
      api.emit("asked", { id: job.id });
    }
  } catch (error) {
    refuse(error);
  } finally {
    busy(false);
  }
}

function busy(now) {
  sending = now;
  $("generate").setAttribute("aria-busy", String(now));
  $("generate").firstElementChild.textContent = t(now ? "sending" : "generate");
  about();
}

/** Put all values of a job into the form, its seed included. */
export function again(job) {
  clear();
  const made = job.parameters ?? {};
  if (modelOf(job.model)) $("model").value = job.model;
  const model = chosen();
  const files = jobs.filesOf(job.id);
  pictures.set(files ?? {});
  setModel();
  $("count").value = "1";
  const [lora] = made.lora ?? [];
  if (lora && loras.includes(lora.path)) Object.assign($("lora"), { value: lora.path });
  if (lora) $("lora_strength").value = lora.strength;
  $("prompt").value = job.prompt ?? "";
  for (const field of [...NUMBERS, "frames", "seed", "negative"]) {
    if (made[field] !== undefined && made[field] !== null) $(field).value = made[field];
  }
  if (made.solver && [...$("solver").options].some((option) => option.value === made.solver)) $("solver").value = made.solver;
  if (made.upscale) $("upscale").value = String(made.upscale);
  if (made.fit) $("fit").value = made.fit;
  if (job.size && [...$("size").options].some((option) => option.value === job.size)) $("size").value = job.size;
  else if (job.size && model?.free_size) {
    $("size").value = "own";
    [$("width").value, $("height").value] = job.size.split("x");
  }
  $("own").hidden = $("size").value !== "own";
  $("details").open = true;
  about();
  note();
  draft.keep();
  if (!files && (job.inputs?.length || model?.tasks.every((task) => task !== "text"))) wrong("image", t("image_again"));
  announce(t("again_filled"));
  $("prompt").focus();
  $("prompt").select();
}

function examples() {
  const nano = chosen()?.id === "nano" || !models.length;
  $("examples").replaceChildren(...t(nano ? "examples_nano" : "examples_any").map((text) =>
    el("button", { type: "button", class: "example", text, onclick: () => {
      $("prompt").value = text;
      wrong("prompt", "");
      note();
      draft.keep();
      $("prompt").focus();
    } })));
}

let asked = 0;
let waiting = null;

/** Say under the prompt what the model does not know of it, before anything is made. */
function note() {
  clearTimeout(waiting);
  const model = chosen();
  const prompt = $("prompt").value.trim();
  asked += 1;
  const turn = asked;
  if (!model?.knows || !prompt) return void ($("prompt-note").textContent = "");
  waiting = setTimeout(async () => {
    try {
      const said = await api.reading(model.id, prompt);
      if (turn !== asked) return;
      const language = current();
      const subjects = (model.knows.subjects[language] ?? model.knows.subjects.en).join(", ");
      const nearest = said.nearest && t("note_nearest", { word: said.nearest.word, subject: said.nearest.subject[language] });
      $("prompt-note").textContent = said.subjects.length ? "" : [t("note_knows", { model: model.id, subjects }), nearest].filter(Boolean).join(" ");
      showTrouble(); // the note may have moved it
    } catch {
      // Without an answer nothing is said.
    }
  }, PAUSE);
}

function counts() {
  const before = $("count").value || "1";
  $("count").replaceChildren(...Array.from({ length: MOST }, (_, index) => el("option", { value: index + 1, text: number(index + 1) })));
  $("count").value = before;
}

function shortcut() {
  const apple = /Mac|iPhone|iPad/.test(navigator.platform);
  $("shortcut").textContent = apple ? "⌘ ↵" : t("shortcut");
}

export function start() {
  shortcut();
  counts();
  $("form").addEventListener("submit", send);
  $("form").addEventListener("input", (event) => {
    if (FIELDS.includes(event.target.id)) wrong(event.target.id, "");
    if (event.target.id === "prompt") note();
    $("lora_strength-field").hidden = !$("lora").value;
    about();
    draft.keep();
  });
  $("form").addEventListener("change", draft.keep);
  $("create").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && $("form").contains(event.target)) send(event);
  });
  $("model").addEventListener("change", () => { clear(); setModel(); note(); draft.keep(); });
  $("size").addEventListener("change", () => { $("own").hidden = $("size").value !== "own"; });
  $("defaults").addEventListener("click", () => { $("seed").value = ""; clear(); setModel(); draft.keep(); });
  $("details").addEventListener("toggle", draft.keep);
  pictures.start((trouble) => {
    wrong("image", trouble ?? "");
    fitPictures();
    draft.keep();
  });
  onLanguage(() => { shortcut(); counts(); clear(); name(); fitPictures(); examples(); note(); busy(sending); });
  examples();
}
