"""What the tests of the page share: a browser, a visit to the page on a server of its own, and a few gestures."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")
pytest.importorskip("fastapi", reason="the page is tested with a small server, and FastAPI is not installed")
pytest.importorskip("uvicorn", reason="the page is tested with a small server, and uvicorn is not installed")

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, expect, sync_playwright

from tests.serve.fake_server import Clip, Fake, make_clips, serve

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="the page is tested with Chromium; none is on the path")

PATIENCE = 20_000
expect.set_options(timeout=PATIENCE)

Opened = tuple[Page, Fake]
Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        OPEN.clear()
        browser.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return make_clips(tmp_path_factory.mktemp("clips"))


OPEN: dict[str, Page] = {}
"""Windows that wait for the next test: one that is there begins in half the time of a new one. Each test has a server
on a port of its own, and what a page stores belongs to its port."""


@contextmanager
def window(browser: Browser, address: str, *, statuses: tuple[int, ...] = (), **context: Any) -> Iterator[Page]:
    """The page in a window that has nothing of another test; `statuses` are answers that a test provokes and browsers
    complain of. Videos do not play by themselves and nothing moves, unless it is asked for: drawing that takes most of
    a test's time."""
    plain = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", "reduced_motion": "reduce"}
    settings: dict[str, Any] = {**plain, **context}
    key = json.dumps(settings, sort_keys=True)
    page = OPEN.pop(key, None) or browser.new_context(**settings).new_page()
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    expected = re.compile(rf"status of ({'|'.join(map(str, statuses)) or 'none'})\b|ERR_INTERNET_DISCONNECTED")

    def heard(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not expected.search(message.text):
            complaints.append(message.text)

    def broken(error: Error) -> None:
        complaints.append(str(error))

    page.on("console", heard)
    page.on("pageerror", broken)
    page.goto(address)
    try:
        yield page
    except BaseException:
        page.context.close()
        raise
    page.remove_listener("console", heard)
    page.remove_listener("pageerror", broken)
    page.context.set_offline(False)
    page.goto("about:blank")
    OPEN[key] = page
    assert complaints == []


@pytest.fixture
def visit(browser: Browser, clips: list[Clip]) -> Iterator[Open]:
    """Opens the page on a server of its own."""
    with ExitStack() as stack:

        def opened(fake: Fake | None = None, **more: Any) -> Opened:
            fake = fake or Fake(clips)
            address = stack.enter_context(serve(fake))
            return stack.enter_context(window(browser, address, **more)), fake

        yield opened


def ask(page: Page, prompt: str) -> None:
    page.get_by_label("What the video shows").fill(prompt)
    page.get_by_role("button", name="Generate").click()


def await_video(page: Page) -> None:
    page.locator("#video:not([hidden])").wait_for()
    page.wait_for_function("() => document.getElementById('video').readyState >= 3")


def drawn(folder: Path, name: str = "first.png") -> Path:
    Image.new("RGB", (64, 48), (200, 80, 40)).save(folder / name)
    return folder / name


DROP = """([selector, data, name]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: name.endsWith("png") ? "image/png" : "text/plain" }));
  const target = document.querySelector(selector);
  for (const kind of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


def drop(page: Page, selector: str, path: Path) -> None:
    page.evaluate(DROP, [selector, base64.b64encode(path.read_bytes()).decode(), path.name])
