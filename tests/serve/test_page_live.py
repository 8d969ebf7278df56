"""The page in a real browser, against the real server with nano: what a stranger does on the first visit."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")

from playwright.sync_api import Browser, Page, expect

from lichtspiel.seal import verify
from lichtspiel.weights.checkpoint import EMBEDDED
from tests.serve import browsing
from tests.serve.browsing import ask, await_video, window
from tests.serve.live import live, settings, working

pytestmark = browsing.needs_chromium
browser = browsing.browser
PATIENCE = 180_000
"""Milliseconds: beside other work a model loads for a minute, and nothing here is about speed."""

PROMPT = "a big whale swims to the left in the sea"


def make_it_short(page: Page, steps: int) -> None:
    page.set_default_timeout(PATIENCE)
    page.get_by_text("Details").click()
    page.get_by_label("Steps").fill(str(steps))
    page.locator("#frames").fill("5")
    expect(page.get_by_label("Larger")).to_have_value("4")  # 128 pixels are a stamp
    page.get_by_label("Larger").select_option("1")


@pytest.mark.usefixtures("enlarged")
def test_a_stranger_asks_watches_reloads_and_verifies(browser: Browser, tmp_path: Path) -> None:
    chosen = settings(tmp_path, EMBEDDED)
    with (
        live(chosen) as (server, address),
        working(server),
        window(browser, address, reduced_motion="no-preference") as page,
    ):
        make_it_short(page, 4)
        ask(page, PROMPT)
        await_video(page)
        page.wait_for_function("() => document.getElementById('video').currentTime > 0.1")
        page.reload()
        expect(page.locator('.card[data-state="completed"]')).to_have_count(1, timeout=PATIENCE)
        page.wait_for_function("() => document.querySelector('.card img').naturalWidth === 128")
        page.locator(".card .open").click()
        await_video(page)
        expect(page.locator("#screen-title")).to_have_text(PROMPT)
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download").click()
        file = tmp_path / "downloaded.mp4"
        waiting.value.save_as(file)
        assert verify(file).credentials.state == "trusted"
        page.get_by_role("button", name="Check its seal").click()
        expect(page.locator('#report[data-kind="here"]')).to_contain_text("Recorded parameters", timeout=PATIENCE)
        changed = bytearray(file.read_bytes())
        changed[changed.rindex(b"mdat") + 200] ^= 1
        file.write_bytes(changed)
        page.locator("#file").set_input_files(file)
        expect(page.locator('#report[data-kind="tampered"]')).to_be_visible(timeout=PATIENCE)


@pytest.mark.usefixtures("enlarged")
def test_a_stranger_changes_their_mind(browser: Browser, tmp_path: Path) -> None:
    chosen = settings(tmp_path, EMBEDDED)
    with live(chosen) as (server, address), working(server), window(browser, address) as page:
        make_it_short(page, 100)
        ask(page, PROMPT)
        page.wait_for_function("() => Number(document.getElementById('beam').getAttribute('aria-valuenow')) > 0")
        page.locator("#cancel").click()
        expect(page.locator('.card[data-state="cancelled"]')).to_have_count(1, timeout=PATIENCE)
        assert server.jobs.counts()["cancelled"] == 1
