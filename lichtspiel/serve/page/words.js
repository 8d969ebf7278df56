// What the page says, in the language of the reader. Knows no server and no place on the page but marked elements:
// data-t fills the text, data-t-label the accessible name, data-t-title the tooltip, data-t-placeholder the hint.
import de from "./de.js";
import en from "./en.js";
import translateDe from "./translate-de.js";
import translateEn from "./translate-en.js";
import translateZh from "./translate-zh.js";
import zh from "./zh.js";

const TABLES = { en: { ...en, ...translateEn }, de: { ...de, ...translateDe }, zh: { ...zh, ...translateZh } };
const STORE = "lichtspiel.language";

export const kept = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* storage may be forbidden */ } },
};

let language = document.documentElement.lang in TABLES ? document.documentElement.lang : "en";
const listeners = [];

export const current = () => language;

/** The text of this name; an unknown name is a mistake and shows itself. */
export function t(name, values = {}) {
  const text = TABLES[language][name];
  if (typeof text !== "string") return text ?? `[${name}]`;
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

/** Whether there is a text of this name. */
export const has = (name) => name in TABLES.en;

/** Put the texts into all marked elements below `root`. */
export function fill(root = document) {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
  for (const node of root.querySelectorAll("[data-t-title]")) node.title = t(node.dataset.tTitle);
  for (const node of root.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
}

/** Call `listener` after each change of language. */
export const onLanguage = (listener) => listeners.push(listener);

export function speak(chosen) {
  language = chosen in TABLES ? chosen : "en";
  kept.set(STORE, language);
  document.documentElement.lang = language;
  fill();
  for (const listener of listeners) listener();
}

// Numbers and times as the language writes them

export const number = (value, digits = 2) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);

const unit = (value, name, digits = 0) =>
  new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: digits }).format(value);

/** A duration, as exact as its length deserves: 2.1 s, 40 s, 3 min, 1 h 5 min. */
export function duration(seconds) {
  if (seconds < 10) return unit(seconds, "second", 1);
  if (seconds < 90) return unit(Math.round(seconds), "second");
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return unit(minutes, "minute");
  const rest = minutes % 60;
  return [unit(Math.floor(minutes / 60), "hour"), rest ? unit(rest, "minute") : ""].join(" ").trim();
}

export const when = (date) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(date);

/** How long ago: "5 minutes ago"; after a week the date. */
export function ago(date) {
  const seconds = Math.max((Date.now() - date) / 1000, 0);
  if (seconds > 7 * 86400) return new Intl.DateTimeFormat(language, { dateStyle: "medium" }).format(date);
  const words = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const [size, name] = [[86400, "day"], [3600, "hour"], [60, "minute"]].find(([each]) => seconds >= each) ?? [1, "second"];
  return name === "second" ? words.format(0, "second") : words.format(-Math.floor(seconds / size), name);
}
