// The places for a first and a last picture: choosing, dropping, pasting, a small view, and taking them away again.
import { t } from "./words.js";

const ROLES = ["image", "last_image"];
const files = {};
let offered = { image: true, last_image: false }; // until the models are known, a picture is kept in hand
let changed = () => {};

const place = (role) => document.querySelector(`.picture[data-role="${role}"]`);

/** The pictures that the model takes and that are there. */
export const given = () => Object.fromEntries(ROLES.filter((role) => offered[role] && files[role]).map((role) => [role, files[role]]));

/** Which places there are; a last picture needs a first one. */
export function offer(first, last) {
  offered = { image: first, last_image: last };
  show();
}

export function set(pictures) {
  for (const role of ROLES) put(role, pictures[role] ?? null);
  show();
}

function put(role, file) {
  const view = place(role).querySelector("img");
  if (view.src) URL.revokeObjectURL(view.src);
  view.removeAttribute("src");
  if (file) {
    files[role] = file;
    view.src = URL.createObjectURL(file);
    view.onerror = () => {
      if (files[role] !== file) return;
      put(role, null);
      show();
      changed(t("not_picture", { name: file.name }));
    };
  } else delete files[role];
  place(role).querySelector("input").value = "";
}

function show() {
  for (const role of ROLES) {
    const box = place(role);
    const file = files[role];
    box.hidden = !offered[role] || (role === "last_image" && !files.image);
    box.classList.toggle("full", Boolean(file));
    box.querySelector("img").hidden = !file;
    box.querySelector("img").alt = file ? file.name : "";
    box.querySelector(".remove").hidden = !file;
  }
  document.getElementById("pictures").hidden = !offered.image;
}

function take(role, file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) {
    changed(t("not_picture", { name: file.name }));
    return;
  }
  put(role, file);
  show();
  changed(null);
}

const free = () => (!files.image ? "image" : offered.last_image && !files.last_image ? "last_image" : "image");
const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

/** `told` is called after each change, with what is wrong, if something is. */
export function start(told) {
  changed = told;
  for (const role of ROLES) {
    const box = place(role);
    const input = box.querySelector("input");
    input.addEventListener("change", () => take(role, input.files[0]));
    box.querySelector(".remove").addEventListener("click", () => {
      put(role, null);
      if (role === "image" && files.last_image) put("last_image", null);
      show();
      changed(null);
      input.focus();
    });
    box.addEventListener("dragover", (event) => holdsFiles(event) && box.classList.add("over"));
    for (const name of ["dragleave", "drop"]) box.addEventListener(name, () => box.classList.remove("over"));
  }
  const create = document.getElementById("create");
  create.addEventListener("drop", (event) => {
    if (!holdsFiles(event) || !offered.image) return;
    take(event.target.closest?.(".picture")?.dataset.role ?? free(), event.dataTransfer.files[0]);
  });
  create.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!file || !offered.image) return;
    event.preventDefault();
    take(free(), file);
  });
  // Without this a file that misses its place replaces the whole page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => holdsFiles(event) && event.preventDefault());
}
