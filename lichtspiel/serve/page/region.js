// The canvas on which a box is drawn around what is to be changed in a video, and the mask that the server finds from
// it, shown over the video before it goes into the form.
import * as api from "./api.js";
import { $, explain } from "./dom.js";
import { number, onLanguage, t } from "./words.js";

const LEAST = 4; // pixels of a side of a box

let film = null; // the video of the form
let box = null; // [left, top, right, bottom] in its pixels
let found = null; // {answer, file, video} of a mask
let from = null; // where the drag began
let asking = null; // what ends the question to the server
let taken = () => {};

const video = document.createElement("video");
Object.assign(video, { muted: true, playsInline: true, preload: "auto" });

/** Where a pointer is in the video, in its pixels, within its frame. */
function place(event) {
  const { left, top, width, height } = $("region-canvas").getBoundingClientRect();
  const x = ((event.clientX - left) / width) * video.videoWidth;
  const y = ((event.clientY - top) / height) * video.videoHeight;
  return [Math.min(Math.max(Math.round(x), 0), video.videoWidth), Math.min(Math.max(Math.round(y), 0), video.videoHeight)];
}

const large = () => box && box[2] - box[0] >= LEAST && box[3] - box[1] >= LEAST;

/** The frame, and on it the mask in green or the box. */
function draw() {
  const canvas = $("region-canvas");
  const pen = canvas.getContext("2d");
  pen.globalCompositeOperation = "source-over";
  pen.drawImage(video, 0, 0, canvas.width, canvas.height);
  if (found) {
    pen.drawImage(tinted(canvas.width, canvas.height), 0, 0);
  } else if (box) {
    pen.lineWidth = Math.max(canvas.width / 250, 2);
    pen.strokeStyle = "#fff";
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([pen.lineWidth * 3, pen.lineWidth * 3]);
    pen.strokeStyle = "#111";
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([]);
  }
  state();
}

/** The mask's frame as green where it is white, and clear where it is black. */
function tinted(width, height) {
  const layer = new OffscreenCanvas(width, height);
  const pen = layer.getContext("2d", { willReadFrequently: true });
  pen.drawImage(found.video, 0, 0, width, height);
  const pixels = pen.getImageData(0, 0, width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const white = pixels.data[at];
    pixels.data.set([60, 220, 90, white > 127 ? 130 : 0], at);
  }
  pen.putImageData(pixels, 0, 0);
  return layer;
}

/** The number of the frame that is shown. */
const shown = () => Math.min(Math.floor(video.currentTime * found.answer.fps + 0.01), found.answer.frames - 1);

function state() {
  const says = $("region-says");
  if (asking) says.textContent = t("region_asking");
  else if (!found) says.textContent = large() ? t("region_drawn") : t("region_draw");
  else {
    const sure = number(Math.round(100 * found.answer.confidence[shown()]));
    const low = found.answer.low.map((frame) => number(frame)).join(", ");
    says.textContent = [t("region_sure", { n: number(shown()), sure }), low ? t("region_low", { frames: low }) : t("region_good")].join(" ");
  }
  $("region-follow").hidden = Boolean(found);
  $("region-follow").disabled = !large() || Boolean(asking);
  $("region-again").hidden = !found;
  $("region-take").hidden = !found;
}

/** Show the frame at a time in the video, and in the mask. */
async function seek(seconds) {
  const all = found ? [video, found.video] : [video];
  await Promise.all(all.map((each) => new Promise((done) => {
    each.addEventListener("seeked", done, { once: true });
    each.currentTime = seconds;
  })));
  draw();
}

function forget() {
  asking?.abort();
  asking = null;
  if (found) URL.revokeObjectURL(found.video.src);
  found = null;
}

const loaded = (each) => new Promise((done, failed) => {
  each.addEventListener("loadeddata", done, { once: true });
  each.addEventListener("error", () => failed(new api.ApiError(t("region_unseen"), { code: "invalid_request" })), { once: true });
});

/** Ask the server for the mask of what is in the box. */
async function follow() {
  asking = new AbortController();
  $("region-error").replaceChildren();
  state();
  const { signal } = asking;
  try {
    const consent = $("consent").value.trim();
    const answer = await api.mask(film, box, video.currentTime, consent, signal);
    const bytes = Uint8Array.from(atob(answer.mask), (letter) => letter.charCodeAt(0));
    const file = new File([bytes], "mask.mp4", { type: "video/mp4" });
    const its = document.createElement("video");
    Object.assign(its, { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) });
    await loaded(its);
    if (signal.aborted) return;
    found = { answer, file, video: its };
    asking = null;
    await seek(video.currentTime);
  } catch (error) {
    if (signal.aborted) return;
    asking = null;
    $("region-error").replaceChildren(explain(error));
    state();
  }
}

/** Open the canvas for a video. */
export async function open(file) {
  forget();
  film = file;
  box = null;
  $("region-error").replaceChildren();
  if (video.src) URL.revokeObjectURL(video.src);
  const ready = loaded(video);
  video.src = URL.createObjectURL(file);
  $("region").showModal();
  try {
    await ready;
  } catch (error) {
    $("region-error").replaceChildren(explain(error));
    return;
  }
  Object.assign($("region-canvas"), { width: video.videoWidth, height: video.videoHeight });
  $("region-canvas").style.width = `min(100%, ${Math.round((62 * video.videoWidth) / video.videoHeight)}vh)`;
  Object.assign($("region-time"), { min: 0, max: Math.max(video.duration - 0.01, 0), step: "any", value: 0 });
  draw();
}

/** `use` is called with the mask's file when it was looked at and taken. */
export function start(use) {
  taken = use;
  const canvas = $("region-canvas");
  canvas.addEventListener("pointerdown", (event) => {
    if (found || asking) return;
    from = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = place(event);
    box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    draw();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { from = null; });
  $("region-time").addEventListener("input", () => seek(Number($("region-time").value)));
  $("region-follow").addEventListener("click", follow);
  $("region-again").addEventListener("click", () => { forget(); draw(); });
  $("region-take").addEventListener("click", () => {
    taken(found.file);
    $("region").close();
  });
  $("region-close").addEventListener("click", () => $("region").close());
  $("region").addEventListener("close", forget);
  onLanguage(() => $("region").open && state());
}
