// What stands in the form, kept in this tab over a reload: its fields, and pictures as far as there is room. It is gone
// with the tab.
import { $ } from "./dom.js";
import * as pictures from "./pictures.js";

const STORE = "lichtspiel.draft";
const FIELDS = ["model", "size", "width", "height", "prompt", "consent", "frames", "steps", "guidance", "shift", "seed", "count", "solver", "upscale", "fit", "lora", "lora_strength", "negative"];
const LARGEST = 1_500_000; // bytes of a file; a tab may keep about five million characters

let asleep = false;

const text = (file) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = failed;
  reader.readAsDataURL(file);
});

function write(draft) {
  try {
    sessionStorage.setItem(STORE, JSON.stringify(draft));
    return true;
  } catch {
    return false; // forbidden, or full
  }
}

let newest = 0;

/** Keep what stands there now. Files are read in their own time, so what an older call read must not replace it. */
export async function keep() {
  if (asleep) return;
  const mine = ++newest;
  const fields = Object.fromEntries(FIELDS.map((name) => [name, $(name).value]));
  const draft = { fields, consent: !$("consent-field").hidden, details: $("details").open, files: [] };
  write(draft);
  for (const [role, list] of Object.entries(pictures.given())) {
    for (const file of list) {
      if (file.size <= LARGEST) draft.files.push({ role, name: file.name, type: file.type, data: await text(file).catch(() => "") });
    }
  }
  if (draft.files.length && mine === newest) write(draft);
}

const blob = (data) => Uint8Array.from(atob(data.slice(data.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));

/** What was kept: {fields, consent, details, files by role}; null if nothing was. */
export function kept() {
  try {
    const draft = JSON.parse(sessionStorage.getItem(STORE));
    const files = {};
    for (const { role, name, type, data } of draft.files) (files[role] ??= []).push(new File([blob(data)], name, { type }));
    return { ...draft, files };
  } catch {
    return null;
  }
}

/** Put kept fields into the form without keeping each step of it. */
export async function quietly(work) {
  asleep = true;
  try {
    await work();
  } finally {
    asleep = false;
  }
}

export const names = FIELDS;
