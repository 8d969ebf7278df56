"""Take the pictures of the server's page in docs/: a real server, videos by nano, a real browser.

    python -m scripts.make_page_pictures

It needs Chromium on the path and the extras `serve` and `test`. The server has an empty database and folder of its own.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.load import Site
from tests.serve.browsing import window

DOCS = Path(__file__).parent.parent / "docs"
PROMPTS = (
    "a fire engine drives to the left in the snow",
    "a big sailboat sails to the left on the sea on a sunny day",
    "a sailboat sails to the right on the sea at sunset",
    "a big tropical fish swims to the left under water",
)
PICTURES: dict[str, dict[str, Any]] = {
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


def make_videos(site: Site) -> None:
    asked = [{"prompt": prompt, "seed": 3} for prompt in PROMPTS]
    ids = [site.ask("POST", "/v1/videos", json=one).json()["id"] for one in asked]
    while {site.ask("GET", f"/v1/videos/{id}").json()["status"] for id in ids} != {"completed"}:
        time.sleep(1)


def take(browser: Browser, site: Site, name: str, look: dict[str, Any]) -> None:
    with window(browser, site.address, **look) as page:
        page.locator('.card[data-state="completed"]').nth(len(PROMPTS) - 1).wait_for()
        page.locator(".card .open").first.click()
        page.wait_for_function("() => document.getElementById('video').currentTime > 0.5")
        page.evaluate("() => document.getElementById('video').pause()")
        if name == "page-phone":  # a window as small as that shows the form or the video
            page.locator("#screen-title").evaluate("title => title.scrollIntoView({ block: 'center' })")
        else:
            page.evaluate("() => window.scrollTo(0, 0)")
        page.screenshot(path=DOCS / f"{name}.jpg", type="jpeg", quality=88)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="page-") as folder, sync_playwright() as playwright:
        site = Site(Path(folder), workers=1)
        site.start()
        try:
            make_videos(site)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for name, look in PICTURES.items():
                take(browser, site, name, look)
            browser.close()
        finally:
            site.stop()


if __name__ == "__main__":
    main()
