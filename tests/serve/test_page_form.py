"""The form of the page in a real browser: what it keeps, takes and says, over a small stand-in for the server."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")

from playwright.sync_api import expect

from tests.serve import browsing
from tests.serve.browsing import Open, ask, await_video, drawn, drop
from tests.serve.fake_server import Clip, Fake

pytestmark = browsing.needs_chromium
browser, clips, visit = browsing.browser, browsing.clips, browsing.visit


def test_the_screen_stays_on_what_is_made_while_others_wait(visit: Open, clips: list[Clip]) -> None:
    page, _ = visit(Fake(clips, seconds=60))
    ask(page, "first")
    page.locator('.card[data-state="in_progress"]').wait_for()
    ask(page, "second")
    ask(page, "third")
    expect(page.locator("#waiting")).to_have_text("2 more in the queue")
    expect(page.locator("#screen-title")).to_have_text("first")
    page.locator(".card .open").first.click()
    expect(page.locator("#where")).to_have_text("number 2 in the queue")
    page.reload()
    expect(page.locator("#screen-title")).to_have_text("first")


def test_several_videos_with_seeds_that_follow_each_other(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=60))
    page.get_by_label("Videos", exact=True).select_option("3")
    ask(page, "a whale")
    expect(page.locator(".card")).to_have_count(3)
    assert [one.get("seed") for one in fake.asked] == [None] * 3
    page.get_by_text("Details").click()
    page.get_by_label("Seed").fill("9007199254740993")
    page.get_by_label("Videos", exact=True).select_option("2")
    ask(page, "a bee")
    expect(page.locator(".card")).to_have_count(5)
    assert [str(one["seed"]) for one in fake.asked[3:]] == ["9007199254740993", "9007199254740994"]


def test_a_model_that_edits_takes_a_video_a_mask_and_things_to_show(
    visit: Open, tmp_path: Path, clips: list[Clip]
) -> None:
    page, fake = visit(Fake(clips, seconds=0.3))
    page.locator("#model").select_option("vace-1.3b")
    expect(page.locator('.picture[data-role="image"]')).to_be_hidden()
    expect(page.locator('.picture[data-role="mask"]')).to_be_hidden()
    page.locator("#video-file").set_input_files(clips[0].path)
    expect(page.locator('.picture[data-role="video"]')).to_contain_text("0.mp4")
    page.locator("#mask").set_input_files(drawn(tmp_path, "mask.png"))
    page.locator("#references").set_input_files([drawn(tmp_path, "hat.png"), drawn(tmp_path, "shoe.png")])
    expect(page.locator('.picture[data-role="references"]')).to_contain_text("hat.png +1")
    ask(page, "a fish in a hat")
    await_video(page)
    assert fake.asked[0]["files"] == ["video", "mask", "references", "references"]
    page.get_by_role("button", name="Remove the video").click()
    expect(page.locator('.picture[data-role="mask"]')).to_be_hidden()
    drop(page, "#create h1", tmp_path / "mask.png")
    expect(page.locator('.picture[data-role="video"]')).to_contain_text("mask.png")


@pytest.mark.parametrize(("locale", "open_it", "use_it"), [
    ("en-GB", "Draw what changes", "Use this mask"), ("de-DE", "Einzeichnen, was sich ändert", "Diese Maske nehmen"),
    ("zh-CN", "框选要修改的部分", "使用此遮罩"),
])  # fmt: skip
def test_a_box_is_drawn_followed_and_looked_at_before_the_job_is_sent(
    visit: Open, clips: list[Clip], locale: str, open_it: str, use_it: str
) -> None:
    page, fake = visit(Fake(clips, seconds=0.3), locale=locale)
    page.locator("#model").select_option("vace-1.3b")
    expect(page.get_by_role("button", name=open_it)).to_be_hidden()
    page.locator("#video-file").set_input_files(clips[0].path)
    page.get_by_role("button", name=open_it).click()
    expect(page.locator("#region-follow")).to_be_disabled()
    height, width = clips[0].frames.shape[1:3]
    page.wait_for_function(f"() => document.getElementById('region-canvas').width === {width}")
    canvas = page.locator("#region-canvas").bounding_box()
    assert canvas is not None
    page.mouse.move(canvas["x"] + canvas["width"] * 0.75, canvas["y"] + canvas["height"] * 0.75)
    page.mouse.down()
    page.mouse.move(canvas["x"] + canvas["width"] * 0.25, canvas["y"] + canvas["height"] * 0.5, steps=3)
    page.mouse.up()
    page.locator("#region-follow").click()
    page.locator("#region-take").wait_for()
    asked = [int(part) for part in fake.asked[0]["box"].split(",")]
    wanted = width / 4, height / 2, width * 3 / 4, height * 3 / 4
    assert all(abs(one - other) <= 1 for one, other in zip(asked, wanted, strict=True))
    assert float(fake.asked[0]["at"]) == 0
    said = page.locator("#region-says")
    expect(said).to_contain_text("90")
    last = len(clips[0].frames) - 1
    expect(said).to_contain_text(str(last))
    page.locator("#region-time").fill(str(last / 8 + 0.02))
    expect(said).to_contain_text("30")
    green = page.evaluate("""() => {
      const canvas = document.getElementById("region-canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let at = 0; at < data.length; at += 4) count += data[at + 1] > data[at] + 40;
      return count;
    }""")
    assert green > 0
    page.get_by_role("button", name=use_it).click()
    expect(page.locator('.picture[data-role="mask"]')).to_contain_text("mask.mp4")
    page.locator("#prompt").fill("a fish")
    page.locator("#generate").click()
    expect(page.locator(".card")).to_have_count(1)
    assert (fake.asked[-1]["files"], fake.asked[-1]["path"]) == (["video", "mask"], "/v1/videos/edits")


def test_a_lora_that_the_server_offers(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.3, loras=["clay", "ink"]))
    page.get_by_text("Details").click()
    page.get_by_label("LoRA", exact=True).select_option("ink")
    page.get_by_label("Strength of the LoRA").fill("0.8")
    ask(page, "a whale")
    await_video(page)
    assert fake.asked[0]["lora"] == ["ink:0.8"]


def test_the_form_is_kept_over_a_reload(visit: Open, tmp_path: Path) -> None:
    page, _ = visit()
    page.locator("#image").set_input_files(drawn(tmp_path))
    page.get_by_label("What the video shows").fill("a bee in the rain")
    page.get_by_text("Details").click()
    page.get_by_label("Steps").fill("4")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Videos", exact=True).select_option("2")
    page.locator("#consent").fill("Anna Muster, who agreed")
    page.wait_for_function("() => JSON.parse(sessionStorage.getItem('lichtspiel.draft')).files.length === 1")
    page.reload()
    expect(page.get_by_role("img", name="first.png")).to_be_visible()
    names = ("prompt", "steps", "seed", "count", "consent")
    assert [page.locator(f"#{name}").input_value() for name in names] == [
        "a bee in the rain", "4", "7", "2", "Anna Muster, who agreed",
    ]  # fmt: skip
    expect(page.locator("#details")).to_have_attribute("open", "")
    page.locator("#model").select_option("t2v-1.3b")
    page.reload()
    expect(page.locator("#model")).to_have_value("t2v-1.3b")
    expect(page.locator("#steps")).to_have_value("50")


@pytest.mark.parametrize(
    ("locale", "said", "about"),
    [
        ("en-GB", "Nearest to “mammoth” is “elephant”.", "Small model inside this package"),
        ("de-DE", "Am nächsten an „mammoth“ ist „Elefant“.", "Kleines Modell in diesem Paket"),
        ("zh-CN", "与“mammoth”最接近的是“大象”。", "内置的小模型"),
    ],
)
def test_what_a_model_does_not_know_is_said_under_the_prompt(visit: Open, locale: str, said: str, about: str) -> None:
    page, _ = visit(locale=locale)
    expect(page.locator("#model-about")).to_contain_text(about)
    page.locator("#prompt").fill("a mammoth on the beach")
    expect(page.locator("#prompt-note")).to_contain_text(said)
    page.locator("#prompt").fill("a whale in the sea")
    expect(page.locator("#prompt-note")).to_be_empty()


def test_consent_is_asked_for_words_alone(visit: Open) -> None:
    page, fake = visit(statuses=(403,))
    expect(page.locator("#consent-field")).to_be_hidden()
    ask(page, "consent to my neighbor")
    expect(page.locator("#form-error")).to_contain_text("Consent is needed.")
    expect(page.locator("#consent")).to_be_focused()
    page.keyboard.type("Anna Muster, who agreed")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".card")).to_have_count(1)
    assert fake.asked[-1]["consent"] == "Anna Muster, who agreed"


def test_consent_is_asked_for_with_a_picture(visit: Open, tmp_path: Path) -> None:
    page, fake = visit(statuses=(403,))
    page.locator("#image").set_input_files(drawn(tmp_path))
    ask(page, "consent please")
    expect(page.locator("#form-error")).to_contain_text("Consent is needed.")
    expect(page.locator("#consent")).to_be_focused()
    page.keyboard.type("Anna Muster, who agreed")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".card")).to_have_count(1)
    assert fake.asked[-1]["consent"] == "Anna Muster, who agreed"


def test_consent_is_asked_for_after_the_work_too(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.3))
    ask(page, "faces in a crowd")
    expect(page.locator("#failed")).to_contain_text("Consent is needed.")
    expect(page.locator("#failed")).not_to_contain_text("--consent")
    page.get_by_role("button", name="Say who is shown, and try again").click()
    expect(page.locator("#consent")).to_be_focused()
    page.keyboard.type("Anna Muster, who agreed")
    page.keyboard.press("Control+Enter")
    await_video(page)
    assert (fake.asked[-1]["consent"], fake.asked[-1]["seed"]) == ("Anna Muster, who agreed", 1234)


def test_a_wrong_value_is_told_in_the_language_of_the_reader(visit: Open) -> None:
    page, _ = visit(statuses=(400,), locale="de-DE")
    page.locator("#prompt").fill("wrong steps")
    page.get_by_role("button", name="Video machen").click()
    expect(page.locator("#steps-error")).to_have_text("So geht es noch nicht: Der nächste gültige Wert ist 4.")


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("de-DE", ["Das wird hier nicht gemacht.", "Der Grund: Gewalt."]),
        ("zh-CN", ["原因：暴力。"]),
        ("de-DE", ["Eine Zustimmung wird gebraucht.", "Der Grund: ein gegebenes Bild zeigt ein Gesicht."]),
    ],
)
def test_a_refusal_is_told_in_the_language_of_the_reader(visit: Open, locale: str, words: list[str]) -> None:
    page, _ = visit(statuses=(403,), locale=locale)
    page.locator("#details summary").click()
    page.locator("#prompt").fill("consent to this" if "Zustimmung" in words[0] else "refuse this")
    expect(page.locator("#prompt-note")).not_to_be_empty()
    page.locator("#generate").click()
    for text in words:
        expect(page.locator("#form-error")).to_contain_text(text)
    expect(page.locator("#form-error")).not_to_contain_text("policy")
    asked = page.locator("#consent-field")
    assert asked.is_visible() == asked.locator("#form-error").is_visible()  # beside the field that answers it
    box = page.locator("#form-error").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 901, "the whole box can be seen"
