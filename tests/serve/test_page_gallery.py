"""Finding a video again: search in prompts, links, and what a video says of itself."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")
pytest.importorskip("fastapi", reason="the page is tested with a small server, and FastAPI is not installed")
pytest.importorskip("uvicorn", reason="the page is tested with a small server, and uvicorn is not installed")

from playwright.sync_api import expect

from tests.serve import browsing
from tests.serve.browsing import Open, await_video
from tests.serve.fake_server import Clip, Fake, report
from tests.serve.test_page_words import table

pytestmark = browsing.needs_chromium
browser, clips, visit = browsing.browser, browsing.clips, browsing.visit


def full(clips: list[Clip], prompts: list[str]) -> Fake:
    """A server with finished videos, the first of the prompts being the oldest."""
    fake = Fake(clips, seconds=0.5)
    for place, prompt in enumerate(prompts):
        job = fake.add({"prompt": prompt}, [])
        job.status, job.created = "completed", time.time() - 1000 + place
        job.begun = job.ended = job.created
    return fake


def test_a_search_finds_older_videos_by_their_words(visit: Open, clips: list[Clip]) -> None:
    page, _ = visit(full(clips, ["A red fox runs", *(f"number {number}" for number in range(26))]))
    expect(page.locator(".card")).to_have_count(24)
    search = page.get_by_label("Search in prompts")
    search.fill("fox RED")
    expect(page.locator(".card:visible")).to_have_count(1)  # which was not among the newest
    expect(page.locator(".card:visible .prompt")).to_have_text("A red fox runs")
    search.fill("fox blue")
    expect(page.locator("#gallery-empty")).to_have_text(table("en")["search_none"])
    page.locator("#language").select_option("de")
    expect(page.locator("#gallery-empty")).to_have_text(table("de")["search_none"])
    search = page.get_by_label(table("de")["search"])
    search.fill("")
    expect(page.locator(".card:visible")).to_have_count(27)


def test_a_link_leads_to_its_video(visit: Open, clips: list[Clip]) -> None:
    fake = full(clips, ["older", *(f"number {number}" for number in range(26))])
    page, _ = visit(fake, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Search in prompts").fill("older")
    page.locator(".card:visible .open").click()
    await_video(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#link .told")).to_have_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{page.url.split('#')[0]}#{next(iter(fake.jobs))}"
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#screen-title")).to_have_text("older")
    page.get_by_text("How it was made").click()
    expect(page.locator("#how-body")).to_contain_text("signed credential, invisible watermark")


def test_the_card_of_a_check_is_for_people(visit: Open, clips: list[Clip]) -> None:
    said = report("intact")
    said["credentials"]["problems"] = ["signingCredential.untrusted: signing certificate untrusted"]
    said["credentials"]["generation"]["parameters"] |= {"lora": [], "nag": 0.0, "weights": {"dit": "ab"}, "fit": "pad"}
    said["labels"]["aigc"] = {"Label": "1", "ContentProducer": "me"}
    fake = full(clips, ["one"])
    fake.report = said
    page, _ = visit(fake)
    page.locator(".card .open").click()
    await_video(page)
    page.get_by_role("button", name="Check its seal").click()
    card = page.locator("#report")
    for words in ("64 × 64", "ContentProducer: me", "pad"):
        expect(card).to_contain_text(words)
    for raw in ("[", "{", "untrusted", "nag", "weights"):
        expect(card).not_to_contain_text(raw)
