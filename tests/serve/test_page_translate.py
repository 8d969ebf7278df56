"""The part of the page that translates, in a real browser, against the real server: upload, edit, render."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")
pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")

from playwright.sync_api import Browser, expect

from lichtspiel.seal import verify
from tests.serve import browsing
from tests.serve.browsing import await_video, window
from tests.serve.live import live, settings, working
from tests.serve.test_translations import GERMAN
from tests.translate.conftest import talk

__all__ = ["talk"]

pytestmark = browsing.needs_chromium
browser = browsing.browser
PATIENCE = 120_000
"""Milliseconds, beside other work."""


def test_a_video_goes_in_lines_are_edited_and_a_video_comes_out(
    browser: Browser, random_nano: Path, talk: Path, tmp_path: Path
) -> None:
    words = tmp_path / "talk.de.srt"
    words.write_text(GERMAN, encoding="utf-8")
    chosen = settings(tmp_path / "server", random_nano)
    with (
        live(chosen) as (server, address), working(server),
        window(browser, f"{address}/#translate", statuses=(403,)) as page,
    ):  # fmt: skip
        page.set_default_timeout(PATIENCE)
        page.get_by_label("Translate into").select_option("de")
        expect(page.locator("#tr-pair")).to_contain_text("Nothing on this server translates from English to German")
        page.locator("#tr-video").set_input_files(talk)
        page.locator("#tr-subtitles").set_input_files(words)
        expect(page.locator("#tr-pair")).to_be_hidden()
        page.get_by_label("List the text in the picture").check()
        page.locator("#tr-start").click()
        line = page.get_by_label("Line 1", exact=True)
        expect(line).to_have_value("Mein Bruder arbeitet in einer Stadt.", timeout=PATIENCE)
        page.wait_for_function("() => document.getElementById('tr-player').readyState >= 2")
        line.fill("Mein Bruder arbeitet in einem Dorf.")
        shown = "() => document.getElementById('tr-player').textTracks[0].cues[0].text"
        assert page.evaluate(shown) == "Mein Bruder arbeitet in einem Dorf."
        page.get_by_label("Line 2", exact=True).fill("")
        page.get_by_label("Speak the lines, too").check()
        expect(page.get_by_label("The lips follow the voice")).to_be_hidden()
        page.get_by_label("The voice also says that it is AI-generated").check()
        page.locator("#tr-render").click()
        expect(page.locator("#tr-render-error")).to_contain_text("agreed", timeout=PATIENCE)
        expect(page.locator("#tr-consent")).to_be_focused()
        page.locator("#tr-consent").fill("nobody: a program speaks")
        page.locator("#tr-render").click()
        await_video(page)
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download").click()
        made = tmp_path / "made.mp4"
        waiting.value.save_as(made)
        assert "AI-generated voice in German" in (verify(made).labels.comment or "")
        page.locator("#again").click()
        expect(line).to_be_visible()
        page.reload()
        expect(page.locator('#tr-drafts [data-state="completed"]')).to_contain_text("talk.mp4", timeout=PATIENCE)
