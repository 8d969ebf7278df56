"""The page for everybody: by keyboard, by ear, on a small phone, by day and by night."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")
pytest.importorskip("fastapi", reason="the page is tested with a small server, and FastAPI is not installed")
pytest.importorskip("uvicorn", reason="the page is tested with a small server, and uvicorn is not installed")

from playwright.sync_api import expect

from tests.serve import browsing
from tests.serve.browsing import Open, ask, await_video, drawn
from tests.serve.fake_server import Clip, Fake
from tests.serve.test_page_words import LANGUAGES

pytestmark = browsing.needs_chromium
browser, clips, visit = browsing.browser, browsing.clips, browsing.visit


def test_it_works_with_the_keyboard_alone(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.5))
    expect(page.locator("#model")).to_have_value("nano")
    order = []
    for _ in range(15):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = ["skip", "brand", "tab-create", "language", "theme", "prompt", "example", "example", "example", "image"]
    assert order == [*wanted, "model", "count", "size", "", "generate"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")  # the folded details
    expect(page.locator("#steps")).to_be_visible()
    page.locator("#prompt").focus()
    page.keyboard.type("a flamingo")
    page.keyboard.press("Control+Enter")
    await_video(page)
    page.locator("#tab-create").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-verify")).to_be_focused()
    expect(page.locator("#verify")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.locator("#delete").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    assert fake.jobs == {}


NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, textarea")].filter((node) => {
  const label = node.labels?.[0]?.textContent || node.getAttribute("aria-label") || node.textContent;
  return !label.trim();
}).map((node) => node.outerHTML)"""


def test_everything_that_acts_has_a_name(visit: Open) -> None:
    page, _ = visit()
    expect(page.locator("#model")).to_have_value("nano")
    for language in LANGUAGES:
        page.locator("#language").select_option(language)
        assert page.evaluate(NAMELESS) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_phone_never_scrolls_sideways(visit: Open, clips: list[Clip], language: str, tmp_path: Path) -> None:
    fake = Fake(clips, seconds=0.05)
    fake.add({"prompt": "Donaudampfschifffahrtsgesellschaftskapitänskajütenschlüssel" * 3}, [])
    page, _ = visit(fake, viewport={"width": 360, "height": 740}, locale=language, has_touch=True)
    await_video(page)
    page.locator("#details summary").click()
    page.locator("#how summary").click()
    page.locator("#image").set_input_files(drawn(tmp_path))
    wide = "document.scrollingElement.scrollWidth"
    assert page.evaluate(wide) <= 360
    page.locator("#tab-verify").click()
    page.locator("#file").set_input_files(clips[0].path)
    page.locator("#report").wait_for()
    assert page.evaluate(wide) <= 360


CONTRAST = """(selectors) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (channels) => channels.map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "white";
  };
  return selectors.flatMap((selector) => [...document.querySelectorAll(selector)]).map((node) => {
    const behind = ground(node);
    const pair = [light(rgb(getComputedStyle(node).color, behind)), light(rgb(behind, "white"))].sort((a, b) => b - a);
    return [node.id || node.className || node.tagName, (pair[0] + 0.05) / (pair[1] + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(visit: Open, clips: list[Clip], scheme: str, tmp_path: Path) -> None:
    fake = Fake(clips, seconds=0.05)
    fake.add({"prompt": "a fire engine"}, [])
    page, _ = visit(fake, color_scheme=scheme, statuses=(403,))
    await_video(page)
    ask(page, "refuse")
    page.locator("#form-error .trouble").wait_for()
    page.locator("#details summary").click()
    texts = ["h1", "h2", "small", "label", "output", "button", ".button", ".meta", ".about", ".said", ".trouble *"]
    assert page.evaluate(CONTRAST, [*texts, "#server", "#changed", "footer p", ".badge"]) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
