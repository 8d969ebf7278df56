// Starts the page: its parts, language, theme, key, and the state of the server.
import * as api from "./api.js";
import { $, el, ended, explain } from "./dom.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as jobs from "./jobs.js";
import * as moderate from "./moderate.js";
import * as screen from "./screen.js";
import * as translate from "./translate.js";
import * as verify from "./verify.js";
import { current, fill, kept, onLanguage, speak, t } from "./words.js";

const READY_PAUSE = 30000;
const WAITING_PAUSE = 3000;

// Parts of the page: Create, Verify, Moderate and Translate

const PARTS = ["create", "verify", "moderate", "translate"];
const tabs = PARTS.map((part) => $(`tab-${part}`));

function turn(to, { focus = false } = {}) {
  for (const tab of tabs) {
    const here = tab.id === `tab-${to}`;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !here;
    if (here && focus) tab.focus();
  }
  if (to !== "create") $("video").pause();
  moderate.turn(to === "moderate");
}

function startTabs() {
  const named = () => PARTS.find((part) => location.hash === `#${part}`) ?? "create";
  for (const tab of tabs) {
    tab.addEventListener("click", () => { location.hash = tab.id.slice("tab-".length); });
    tab.addEventListener("keydown", (event) => {
      const here = tabs.indexOf(tab);
      const goal = { ArrowLeft: here - 1, Home: 0, ArrowRight: here + 1, End: tabs.length - 1 }[event.key];
      if (goal === undefined) return;
      event.preventDefault();
      location.hash = PARTS[Math.min(Math.max(goal, 0), tabs.length - 1)];
      turn(named(), { focus: true });
    });
  }
  addEventListener("hashchange", () => turn(named()));
  turn(named());
}

// Light and dark

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function paintTheme() {
  const label = t(isDark() ? "theme_light" : "theme_dark");
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
  $("theme").querySelector("use").setAttribute("href", isDark() ? "#i-sun" : "#i-moon");
}

function startTheme() {
  $("theme").addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    kept.set("lichtspiel.theme", next);
    paintTheme();
  });
  dark.addEventListener("change", paintTheme);
  onLanguage(paintTheme);
  paintTheme();
}

// The state of the server

let server = { state: "unknown", reasons: [] };
let watch = null;

function paintServer() {
  const { state, reasons } = server;
  $("server").dataset.state = state;
  $("server-word").textContent = t(`server_${state}`);
  const told = state === "loading" || state === "away";
  $("notice").hidden = !told;
  if (!told) return;
  $("notice").replaceChildren(el("p", { text: t(`notice_${state}`) }),
    ...(reasons.length ? [el("p", { class: "said", lang: "en", text: reasons.join("; ") })] : []));
}

async function look() {
  clearTimeout(watch);
  const before = server.state;
  server = await api.ready();
  if (before !== server.state || server.state === "loading") paintServer();
  if (server.state === "ready" && before !== "ready" && before !== "unknown") refresh();
  watch = setTimeout(look, server.state === "ready" ? READY_PAUSE : WAITING_PAUSE);
}

// The key

function askForKey(given) {
  $("key-form").hidden = false;
  $("key-hint").textContent = t(given ? "key_wrong" : "key_hint");
  $("key-form").dataset.wrong = String(given);
  $("forget").hidden = true;
}

function startKey() {
  $("forget").hidden = !api.key.get();
  api.bus.addEventListener("key", ({ detail }) => askForKey(detail.given));
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const secret = $("key").value.trim();
    if (!secret) return;
    jobs.forgetAll();
    api.key.set(secret);
    moderate.forget();
    $("key").value = "";
    await refresh();
    if (!api.key.get()) return void $("key").focus();
    $("key-form").hidden = true;
    $("forget").hidden = false;
    $("prompt").focus();
  });
  $("forget").addEventListener("click", () => {
    api.key.set(null);
    jobs.forgetAll();
    moderate.forget();
    $("forget").hidden = true;
    refresh();
  });
}

async function refresh() {
  await Promise.all([form.load().catch(() => {}), gallery.load()]);
}

/** The title tells how far the work is to whoever looks at another tab. */
function startTitle() {
  const paint = () => {
    const job = jobs.newestFirst().find((each) => !ended(each) && each.status === "in_progress");
    document.title = job ? `${job.progress ?? 0} % · Lichtspiel` : "Lichtspiel";
  };
  api.bus.addEventListener("job", paint);
  api.bus.addEventListener("gone", paint);
}

/** Show the video that the address names; returns whether it names one that is there. */
async function linked() {
  const id = location.hash.slice(1);
  if (!id.startsWith("video_")) return false;
  try {
    if (!jobs.get(id)) jobs.put(await api.job(id));
  } catch (error) {
    if (error.code === "not_found") $("gallery-error").replaceChildren(explain(error));
    return false;
  }
  api.emit("show", { id, scroll: true });
  return true;
}

async function start() {
  fill();
  $("language").value = current();
  $("language").addEventListener("change", () => speak($("language").value));
  onLanguage(paintServer);
  startTabs();
  startTheme();
  startKey();
  startTitle();
  form.start();
  screen.start();
  gallery.start();
  verify.start();
  moderate.start();
  translate.start();
  paintServer();
  api.bus.addEventListener("away", () => server.state !== "away" && look());
  api.bus.addEventListener("back", () => server.state === "away" && look());
  look();
  await refresh();
  addEventListener("hashchange", linked);
  if (await linked()) return;
  const first = gallery.unfinished().at(-1) ?? jobs.newestFirst()[0];
  if (first && !screen.current()) api.emit("asked", { id: first.id });
}

start();
