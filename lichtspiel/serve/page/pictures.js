// The places for given files: first and last picture, and, for models that edit, video, mask and references. Choosing,
// dropping, pasting, a small view, and taking them away again.
import * as region from "./region.js";
import { t } from "./words.js";

/** The places by role: the field of a request, what it takes, and how many files. */
export const ROLES = {
  image: { field: "input_reference", kinds: ["image"], most: 1 },
  last_image: { field: "last_reference", kinds: ["image"], most: 1, needs: "image" },
  video: { field: "video", kinds: ["video", "image"], most: 1 },
  mask: { field: "mask", kinds: ["image", "video"], most: 1, needs: "video" },
  references: { field: "references", kinds: ["image"], most: 8 },
};
const NAMES = Object.keys(ROLES);
const files = Object.fromEntries(NAMES.map((role) => [role, []]));
let offered = new Set(["image"]); // until the models are known, a picture is kept in hand
let changed = () => {};

const place = (role) => document.querySelector(`.picture[data-role="${role}"]`);

/** The files that the model takes and that are there: lists by role. */
export const given = () =>
  Object.fromEntries(NAMES.filter((role) => offered.has(role) && files[role].length).map((role) => [role, [...files[role]]]));

/** Which places there are, by the tasks of a model. */
export function offer(tasks) {
  const pictures = tasks.includes("image") || tasks.includes("first-last");
  const edits = tasks.includes("edit");
  offered = new Set([pictures && "image", tasks.includes("first-last") && "last_image", ...(edits ? ["video", "mask", "references"] : [])]);
  show();
}

export function set(all) {
  for (const role of NAMES) put(role, all[role] ?? []);
  show();
}

function put(role, chosen) {
  const view = place(role).querySelector("img");
  if (view.src) URL.revokeObjectURL(view.src);
  view.removeAttribute("src");
  files[role] = chosen.slice(0, ROLES[role].most);
  const [file] = files[role];
  if (file?.type.startsWith("image/")) {
    view.src = URL.createObjectURL(file);
    view.onerror = () => {
      if (files[role][0] !== file) return;
      put(role, []);
      show();
      changed(t("not_picture", { name: file.name }));
    };
  }
  place(role).querySelector("input").value = "";
}

function show() {
  for (const role of NAMES) {
    const box = place(role);
    const [file, ...more] = files[role];
    const { needs } = ROLES[role];
    box.hidden = !offered.has(role) || Boolean(needs && !files[needs].length);
    box.classList.toggle("full", Boolean(file));
    box.querySelector("img").hidden = !file?.type.startsWith("image/");
    box.querySelector("img").alt = file ? file.name : "";
    box.querySelector(".name").textContent = file ? [file.name, more.length ? `+${more.length}` : ""].join(" ") : "";
    box.querySelector(".remove").hidden = !file;
  }
  const canDraw = offered.has("mask") && files.video[0]?.type.startsWith("video/");
  document.getElementById("draw-region").hidden = !canDraw;
  document.getElementById("pictures").hidden = !NAMES.some((role) => offered.has(role));
}

function take(role, list) {
  const chosen = [...list];
  if (!chosen.length) return;
  const wrong = chosen.find((file) => !ROLES[role].kinds.some((kind) => file.type.startsWith(`${kind}/`)));
  if (wrong) {
    changed(t(ROLES[role].kinds.includes("video") ? "not_video" : "not_picture", { name: wrong.name }));
    return;
  }
  put(role, ROLES[role].most > 1 ? [...files[role], ...chosen] : chosen);
  show();
  changed(null);
}

/** The place for a file that was dropped beside all places: the first empty one that takes it. */
function free(file) {
  const fits = NAMES.filter((role) => offered.has(role) && ROLES[role].kinds.some((kind) => file.type.startsWith(`${kind}/`)));
  const open = fits.filter((role) => !ROLES[role].needs || files[ROLES[role].needs].length);
  return open.find((role) => !files[role].length) ?? open[0] ?? [...offered].find(Boolean) ?? "image";
}
const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** `told` is called after each change, with what is wrong, if something is. */
export function start(told) {
  changed = told;
  for (const role of NAMES) {
    const box = place(role);
    const input = box.querySelector("input");
    input.addEventListener("change", () => take(role, input.files));
    box.querySelector(".remove").addEventListener("click", () => {
      put(role, []);
      for (const other of NAMES) if (ROLES[other].needs === role) put(other, []);
      show();
      changed(null);
      input.focus();
    });
    box.addEventListener("dragover", (event) => holdsFiles(event) && box.classList.add("over"));
    for (const name of ["dragleave", "drop"]) box.addEventListener(name, () => box.classList.remove("over"));
  }
  document.getElementById("draw-region").addEventListener("click", () => region.open(files.video[0]));
  region.start((mask) => {
    put("mask", [mask]);
    show();
    changed(null);
  });
  const create = document.getElementById("create");
  create.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer?.files ?? [];
    if (!file || document.getElementById("pictures").hidden) return;
    const role = event.target.closest?.(".picture")?.dataset.role;
    take(role ?? free(file), role ? event.dataTransfer.files : [file]);
  });
  create.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!file || document.getElementById("pictures").hidden) return;
    event.preventDefault();
    take(free(file), [file]);
  });
  // Without this a file that misses its place replaces the whole page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => holdsFiles(event) && event.preventDefault());
}
