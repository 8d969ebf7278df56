"""What pages of other origins can do, in a real browser, to a server on this computer that asks for no key."""

from __future__ import annotations

import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, sync_playwright

from benchmarks.load import Site

__all__ = ["pages"]

WAYS = """
async function run(server, id) {
  const video = `${server}/v1/videos/${id}`, body = JSON.stringify({prompt: "a turtle", frames: 5, steps: 1});
  const frame = (html, sandbox) => { const made = document.createElement("iframe"); made.srcdoc = html;
    if (sandbox) made.sandbox = sandbox; document.body.append(made); return made; };
  const loads = (tag, source) => new Promise(done => { const made = document.createElement(tag);
    made.onload = made.onloadeddata = () => done("loaded"); made.onerror = () => done("blocked");
    made.src = source; document.body.append(made); setTimeout(() => done("nothing"), 3000); });
  const reads = async (path, options) => { const answer = await fetch(path, options);
    return answer.type === "opaque" ? "opaque" : `read ${answer.status}`; };
  const form = (method, type, action) => `<form method=${method} enctype=${type} action="${action}">` +
    `<input name=prompt value="a turtle"></form><script>document.forms[0].submit()</` + `script>`;
  const json = {"content-type": "application/json"};
  const ways = {
    "fetch": () => reads(`${server}/v1/videos`),
    "fetch with credentials": () => reads(`${server}/v1/videos`, {credentials: "include"}),
    "fetch without cors": () => reads(`${server}/v1/videos`, {mode: "no-cors"}),
    "post of JSON": () => reads(`${server}/v1/videos`, {method: "POST", headers: json, body}),
    "post of JSON as text": () => reads(`${server}/v1/videos`, {method: "POST", body}),
    "post without cors": () => reads(`${server}/v1/videos`, {method: "POST", mode: "no-cors", body}),
    "delete": () => reads(video, {method: "DELETE"}),
    "cancel": () => reads(`${video}/cancel`, {method: "POST", mode: "no-cors"}),
    "beacon": async () => String(navigator.sendBeacon(`${server}/v1/videos`, new Blob([body], {type: "text/plain"}))),
    "form": async () => String(!!frame(form("post", "multipart/form-data", `${server}/v1/videos`))),
    "form of text": async () => String(!!frame(form("post", "text/plain", `${server}/v1/videos`))),
    "sandboxed form": async () => String(!!frame(form("post", "multipart/form-data", `${server}/v1/videos`),
      "allow-scripts allow-forms")),
    "picture": () => loads("img", `${video}/content?variant=thumbnail`),
    "video": () => loads("video", `${video}/content`),
    "script": () => loads("script", `${server}/v1/videos`),
    "events": () => new Promise(done => { const source = new EventSource(`${video}/events`);
      source.addEventListener("video", () => done("read")); source.onerror = () => done("blocked"); }),
    "frame": async () => { const made = document.createElement("iframe"); made.src = `${server}/v1/videos`;
      document.body.append(made); await new Promise(done => setTimeout(done, 1500));
      try { return "read " + made.contentDocument.body.innerText.length; } catch (error) { return "blocked"; } },
    "socket": () => new Promise(done => { const socket = new WebSocket(server.replace("http", "ws") + "/v1/videos");
      socket.onopen = () => done("read"); socket.onerror = () => done("blocked"); }),
  };
  const found = {};
  for (const [name, way] of Object.entries(ways)) {
    try { found[name] = await way(); } catch (error) { found[name] = "blocked"; } }
  await new Promise(done => setTimeout(done, 1500));
  return found;
}
"""
"""What a hostile page tries; each way says "read" or "loaded" where it got something."""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = f"<!doctype html><body><script>{WAYS}</script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _elsewhere() -> Iterator[int]:
    """The port of a server of hostile pages."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def pages(folder: Path) -> tuple[int, list[str]]:
    site = Site(folder, workers=1)
    site.start()
    try:
        made = httpx.post(f"{site.address}/v1/videos", json={"prompt": "a turtle", "frames": 5, "steps": 1}, timeout=60)
        id = made.json()["id"]
        while httpx.get(f"{site.address}/v1/videos/{id}").json()["status"] != "completed":
            time.sleep(0.5)
        with _elsewhere() as port, sync_playwright() as playwright:
            rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", rules])
            try:
                return _tried(browser, site, id, port)
            finally:
                browser.close()
    finally:
        site.stop()


def _tried(browser: Browser, site: Site, id: str, port: int) -> tuple[int, list[str]]:
    wrong: list[str] = []
    tries = 0
    own = site.address
    # The last is a name that led elsewhere when the page was loaded and leads here now.
    for origin, server in (
        (f"http://127.0.0.1:{port}", own), (f"http://localhost:{port}", own),
        (f"http://evil.example:{port}", f"http://evil.example:{site.port}"),
    ):  # fmt: skip
        page = browser.new_page()
        page.goto(origin)
        found: dict[str, Any] = page.evaluate("([server, id]) => run(server, id)", [server, id])
        page.close()
        tries += len(found)
        wrong += [f"{origin}, {way}: {got}" for way, got in found.items() if got.startswith(("read", "loaded"))]
        videos = httpx.get(f"{own}/v1/videos").json()["data"]
        if [(one["id"], one["status"]) for one in videos] != [(id, "completed")]:
            wrong.append(f"{origin}: videos were made or lost: {len(videos)}")
    page = browser.new_page()
    answer = page.goto(f"http://evil.example:{site.port}/")
    if answer is None or answer.status != 403:
        wrong.append("the page is shown under a foreign name")
    page.goto(own)
    if page.evaluate("async server => (await fetch(`${server}/v1/videos`)).status", own) != 200:
        wrong.append("the server's own page is blocked, too, so this proves nothing")
    page.close()
    return tries + 2, wrong
