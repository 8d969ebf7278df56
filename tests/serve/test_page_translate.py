"""The part of the page that translates, in a real browser, against the real server: upload, edit, render."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")
pytest.importorskip("pysubs2", reason="pysubs2 is in the extra translate")
pytest.importorskip("espeakng_loader", reason="espeakng-loader is in the extra espeak")

from playwright.sync_api import Browser, expect

from lichtspiel.seal import verify
from tests.inference.tiny import registered
from tests.serve import browsing
from tests.serve.browsing import await_video, window
from tests.serve.live import live, settings, working
from tests.serve.test_translations import GERMAN
from tests.serve.test_translations_picture import drafted
from tests.translate.conftest import talk
from tests.translate.test_translators import apertium
from tests.workflows.test_translate_picture import street, words

__all__ = ["apertium", "street", "talk", "words"]

pytestmark = browsing.needs_chromium
browser = browsing.browser
PATIENCE = 120_000
"""Milliseconds, beside other work."""


def test_a_video_goes_in_lines_are_edited_and_a_video_comes_out(
    browser: Browser, random_nano: Path, talk: Path, tmp_path: Path
) -> None:
    german = tmp_path / "talk.de.srt"
    german.write_text(GERMAN, encoding="utf-8")
    chosen = settings(tmp_path / "server", random_nano)
    with (
        live(chosen) as (server, address), working(server),
        window(browser, f"{address}/#translate", statuses=(403,)) as page,
    ):  # fmt: skip
        page.set_default_timeout(PATIENCE)
        page.get_by_label("Translate into").select_option("de")
        expect(page.locator("#tr-pair")).to_contain_text("Nothing on this server translates from English to German")
        page.locator("#tr-video").set_input_files(talk)
        page.locator("#tr-subtitles").set_input_files(german)
        expect(page.locator("#tr-pair")).to_be_hidden()
        expect(page.locator("#tr-subtitles-name")).to_have_text("talk.de.srt")
        expect(page.locator("#tr-glossary-name")).to_have_text("Choose a file")
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


@pytest.mark.usefixtures("apertium")
def test_what_stands_in_the_picture_is_changed_beside_it(
    browser: Browser, random_nano: Path, street: Path, words: Path, tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    with registered(random_nano, tmp_path_factory.mktemp, ["tiny-vace"]) as folders:
        chosen = settings(tmp_path / "server", folders["tiny-vace"], models=("tiny-vace",))
        with live(chosen) as served, window(  # no worker is ready
            browser, f"{served[1]}/#translate", statuses=(503,), locale="de"
        ) as page:  # fmt: skip
            drafted(served, street, words, picture_text="tell")
            page.reload()
            page.locator('#tr-drafts [data-state="completed"] button').first.click()
            expect(page.locator("#tr-texts")).to_contain_text("BAKERY")
            page.get_by_label("Das Bild neu erzeugen, wo Text steht").check()
            text = page.get_by_label("Text 1 in der neuen Sprache; leer bleibt er, wie er ist")
            expect(text).to_have_value("eng-spa: BAKERY")
            text.fill("PANADERÍA")
            with page.expect_response("**/render") as answered:
                page.locator("#tr-render").click()
            assert answered.value.ok
            waiting = served[0].jobs.claim("nobody", ["translation"], 30.0)
            assert waiting is not None
            assert waiting.request["written"][0]["translation"] == "PANADERÍA"
            assert waiting.request["picture_model"] == "tiny-vace"
