"""The queue of moderation in a real browser, against the real server: what waits, its evidence, and a person's word."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")

from playwright.sync_api import Browser, expect

from lichtspiel.serve.api.state import Server
from tests.serve import browsing
from tests.serve.browsing import window
from tests.serve.live import live, settings

pytestmark = browsing.needs_chromium
browser = browsing.browser


def judge(server: Server, sheet: Path, decision: str, source: str = "picture") -> None:
    """Complete the next moderation without looking, as a worker would."""
    job = server.jobs.claim("w", ["moderation"], 30.0)
    assert job is not None
    reason = {"start": 2.0, "end": 3.5, "decision": decision, "category": "sexual", "rule": "frames.explicit",
              "source": source, "detail": "a still scores 0.50 as explicit", "score": 0.5}  # fmt: skip
    name = f"sheets/{job.id}_1.png"
    server.files.put(sheet, name)
    result = {"decision": decision, "category": "sexual", "reasons": [reason], "checked": ["nudity"], "sha256": "ab"}
    server.jobs.complete(job, video=None, preview=name, result=result)


def test_a_person_decides_what_needs_review(browser: Browser, random_nano: Path, tmp_path: Path) -> None:
    sheet, files = tmp_path / "sheet.png", [tmp_path / name for name in ("statue.mp4", "fight.mp4")]
    Image.new("RGB", (640, 180), (180, 120, 90)).save(sheet)
    for file in files:
        file.write_bytes(file.name.encode())
    chosen = settings(tmp_path / "server", random_nano)
    with live(chosen) as (server, address), window(browser, address, statuses=(503,)) as page:  # there is no worker
        page.get_by_role("tab", name="Moderate").click()
        expect(page.locator("#reviews-empty")).to_be_visible()
        page.locator("#moderate-file").set_input_files(files)
        expect(page.locator('.judgment[data-state="queued"]')).to_have_count(2)
        judge(server, sheet, "needs_review")
        judge(server, sheet, "refused", "speech")
        waiting = page.locator("#reviews .judgment")
        expect(waiting).to_contain_text("statue.mp4")
        expect(waiting).to_contain_text("sexual content · 2 sec to 3.5 sec · picture")
        page.wait_for_function("() => document.querySelector('#reviews .evidence').naturalWidth === 640")
        expect(page.locator('#moderations .judgment[data-state="refused"]')).to_contain_text("fight.mp4")
        expect(page.locator("#moderations button")).to_have_count(0)
        waiting.get_by_label("Why, for the record").fill("a statue")
        waiting.get_by_role("button", name="Allow").click()
        expect(page.locator("#reviewer-error")).to_have_text("Say who decides: it is recorded.")
        page.locator("#reviewer").fill("Ada")
        waiting.get_by_role("button", name="Allow").click()
        expect(page.locator('#moderations .judgment[data-state="allowed"] .reviewed')).to_contain_text(
            "Allowed by Ada, "
        )
        expect(page.locator('#moderations .judgment[data-state="allowed"] .reviewed')).to_contain_text("a statue")
        expect(page.locator("#reviews-title")).to_have_text("Needs review: 0")
        page.reload()
        expect(page.locator("#moderate")).to_be_visible()
        for language, words in (("de", "Erlaubt von Ada"), ("zh", "由 Ada 允许")):
            page.locator("#language").select_option(language)
            expect(page.locator('#moderations .judgment[data-state="allowed"]')).to_contain_text(words)
