"""Take the pictures of the server's page in docs/: a real server, videos by nano, a real browser.

    python scripts/make_page_pictures.py

It needs Chromium on the path and the extras `serve` and `test`. The server has an empty database and folder of its own.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = Path(__file__).parent.parent / "docs"
PROMPTS = (
    "a big helicopter flies to the right over a snowy field on a sunny day",
    "a taxi drives to the left on a road at night",
    "a sailboat sails to the right on the sea at sunset",
    "a big tropical fish swims to the left under water",
)
PICTURES = {
    "page-light": {"viewport": {"width": 1280, "height": 1150}, "color_scheme": "light", "locale": "en-GB"},
    "page-dark": {"viewport": {"width": 1280, "height": 1150}, "color_scheme": "dark", "locale": "de-DE"},
    "page-phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "color_scheme": "light",
        "locale": "zh-CN",
    },
}
"""Names of the pictures, and the windows they are taken in."""


def make_videos(address: str) -> None:
    client = httpx.Client(base_url=address, timeout=60)
    asked = [{"prompt": prompt, "seed": 3, "upscale": 4} for prompt in PROMPTS]
    ids = [client.post("/v1/videos", json=one).json()["id"] for one in asked]
    while {client.get(f"/v1/videos/{id}").json()["status"] for id in ids} != {"completed"}:
        time.sleep(1)


def take(browser: Browser, address: str, name: str, window: dict[str, object]) -> None:
    page: Page = browser.new_context(**window).new_page()  # type: ignore[arg-type]
    page.goto(address)
    page.locator('.card[data-state="completed"]').nth(len(PROMPTS) - 1).wait_for()
    page.locator(".card .open").first.click()
    page.wait_for_function("() => document.getElementById('video').currentTime > 0.5")
    page.evaluate("() => document.getElementById('video').pause()")
    if name == "page-phone":  # a window as small as that shows the form or the video
        page.locator("#screen-title").evaluate("title => title.scrollIntoView({ block: 'center' })")
    else:
        page.evaluate("() => window.scrollTo(0, 0)")
    page.screenshot(path=DOCS / f"{name}.png")
    page.context.close()


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="page-") as folder, sync_playwright() as playwright:
        place = ["--database", f"sqlite:///{folder}/jobs.sqlite", "--storage", f"{folder}/files"]
        server = subprocess.Popen([sys.executable, "-m", "lichtspiel", "serve", "--port", str(port), *place])
        try:
            while True:
                try:
                    httpx.get(f"{address}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            make_videos(address)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name, window in PICTURES.items():
                take(browser, address, name, window)
            browser.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
