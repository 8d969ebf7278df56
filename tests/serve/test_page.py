"""The page in a real browser, against a stand-in for the server. Whatever the console complains about fails a test.

A violation of the page's policy of content (CSP) is such a complaint. Without a browser there is nothing to test.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="the page is tested with Playwright, which is not installed")
pytest.importorskip("fastapi", reason="the page is tested with a small server, and FastAPI is not installed")
pytest.importorskip("uvicorn", reason="the page is tested with a small server, and uvicorn is not installed")

from playwright.sync_api import expect

from lichtspiel.request import value_of
from lichtspiel.serve.api.body import PROPERTIES
from tests.serve import browsing
from tests.serve.browsing import Open, ask, await_video, drawn, drop
from tests.serve.fake_server import Clip, Fake, report
from tests.serve.test_page_words import table

pytestmark = browsing.needs_chromium
browser, clips, visit = browsing.browser, browsing.clips, browsing.visit


def test_language_follows_the_browser_then_the_switch_and_is_kept(visit: Open) -> None:
    page, _ = visit(locale="de-DE")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(table("de")["ask"])
    for language in ("zh", "en", "de"):
        page.locator("#language").select_option(language)
        expect(heading).to_have_text(table(language)["ask"])
        expect(page.locator("html")).to_have_attribute("lang", language)
        expect(page.locator("#prompt")).to_have_attribute("placeholder", table(language)["prompt_hint"])
        assert page.locator(".example").first.inner_text() == table(language)["examples_nano"][0]
    page.locator("#language").select_option("zh")
    page.reload()
    expect(heading).to_have_text(table("zh")["ask"])


# From a prompt to a video


def test_a_prompt_becomes_a_video_that_plays(visit: Open) -> None:
    page, fake = visit(reduced_motion="no-preference")
    ask(page, "a whale <b>swims</b> to the left")
    expect(page.locator("#state")).to_contain_text("Finding the picture")
    expect(page.locator("#where")).to_contain_text(re.compile(r"step \d+ of 16 · about .* left"))
    page.locator("#preview:not([hidden])").wait_for()
    page.wait_for_function("() => Number(document.getElementById('beam').getAttribute('aria-valuenow')) > 40")
    await_video(page)
    page.wait_for_function("() => document.getElementById('video').currentTime > 0.2")
    assert page.evaluate("document.getElementById('video').duration") > 2
    assert page.evaluate("(v => v.muted && v.loop && v.controls && !!v.poster)(document.getElementById('video'))")
    expect(page.locator("#screen-title")).to_have_text("a whale <b>swims</b> to the left")
    expect(page.locator("#announce")).to_contain_text("The video is ready")
    sent = {"prompt": "a whale <b>swims</b> to the left", "model": "nano", "size": "64x64"}
    assert fake.asked == [{**sent, "files": [], "path": "/v1/videos"}]


def test_the_download_has_a_sensible_name(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.5))
    ask(page, "Ein Fuchs, der läuft!")
    await_video(page)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    id = next(iter(fake.jobs))
    assert waiting.value.suggested_filename == f"lichtspiel-ein-fuchs-der-läuft-{id[-4:]}.mp4"
    assert waiting.value.path().read_bytes() == fake.clips[0].path.read_bytes()


def test_how_it_was_made_is_told(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.5))
    ask(page, "a taxi")
    await_video(page)
    page.get_by_text("How it was made").click()
    body = page.locator("#how-body")
    for words in (
        "1234",
        "euler",
        "17 frames, 2.1",
        "Time spent: 12",
        "Finding the picture 8.1",
        "signed credential",
        "not know: taxi",
    ):
        expect(body).to_contain_text(words)
    expect(body).to_contain_text(next(iter(fake.jobs)))


def test_again_with_changes_fills_the_form_with_the_same_seed(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.5))
    page.get_by_text("Details").click()
    page.get_by_label("Steps").fill("4")
    page.get_by_label("Seed").fill("9007199254740993")
    page.locator("#frames").fill("9")
    page.get_by_label("Larger").select_option("4")
    expect(page.locator("#frames-word")).to_have_text("9 frames, 1.1 sec")
    expect(page.locator("#changed")).to_have_text("4 changed")
    ask(page, "a bee flies")
    await_video(page)
    page.get_by_role("button", name="Back to the model's defaults").click()
    page.get_by_role("button", name="Again with changes").click()
    expect(page.get_by_label("What the video shows")).to_be_focused()
    values = {name: page.locator(f"#{name}").input_value() for name in ("prompt", "steps", "seed", "frames", "upscale")}
    wanted = {"prompt": "a bee flies", "steps": "4", "seed": "9007199254740993", "frames": "9", "upscale": "4"}
    assert values == wanted
    assert str(fake.asked[0]["seed"]) == "9007199254740993"
    assert fake.asked[0]["upscale"] == 4
    page.get_by_text("How it was made").click()
    expect(page.locator("#how-body")).to_contain_text("256 × 256")


def test_the_screen_goes_with_the_work_and_the_gallery_survives_a_reload(visit: Open, clips: list[Clip]) -> None:
    page, _ = visit(Fake(clips, seconds=1.5))
    ask(page, "first")
    page.locator('.card[data-state="in_progress"]').wait_for()
    for number, prompt in enumerate(("second", "third"), start=1):
        ask(page, prompt)
        expect(page.locator(".card")).to_have_count(number + 1)
    expect(page.locator("#screen-title")).to_have_text("third")  # what is made, one after the other
    expect(page.locator('.card[data-state="completed"]')).to_have_count(3)
    assert page.locator(".card .prompt").all_inner_texts() == ["third", "second", "first"]
    page.reload()
    expect(page.locator('.card[data-state="completed"]')).to_have_count(3)
    page.locator(".card .open").last.click()
    expect(page.locator("#screen-title")).to_have_text("first")
    await_video(page)
    page.wait_for_function("() => document.querySelectorAll('.card img')[2].naturalWidth === 64")


def test_older_videos_come_on_demand(visit: Open, clips: list[Clip]) -> None:
    fake = Fake(clips, seconds=0.05)
    for number in range(30):
        job = fake.add({"prompt": f"number {number}"}, [])
        job.status, job.created, job.ended = "completed", job.created - 100 + number, job.created
    page, _ = visit(fake)
    expect(page.locator(".card")).to_have_count(24)
    page.get_by_role("button", name="Show older ones").click()
    expect(page.locator(".card")).to_have_count(30)
    expect(page.get_by_role("button", name="Show older ones")).to_be_hidden()
    assert page.locator(".card .prompt").all_inner_texts() == [f"number {number}" for number in reversed(range(30))]


def test_a_video_can_be_cancelled_while_it_is_made(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=30))
    ask(page, "a pig walks")
    expect(page.locator("#where")).to_contain_text("step")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#state")).to_have_text("Cancelled")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_hidden()
    assert [job.status for job in fake.jobs.values()] == ["cancelled"]


def test_deleting_asks_first(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.3))
    ask(page, "a bus")
    await_video(page)
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("a bus")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert len(fake.jobs) == 1
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#state")).to_have_text("The screen is yours.")
    assert fake.jobs == {}


# Pictures


def test_pictures_are_dropped_shown_sent_and_removed(visit: Open, tmp_path: Path, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.3))
    last = page.locator('.picture[data-role="last_image"]')
    expect(last).to_be_hidden()
    drop(page, '.picture[data-role="image"]', drawn(tmp_path))
    expect(page.get_by_role("img", name="first.png")).to_be_visible()
    page.wait_for_function("() => document.querySelector('.picture img').naturalWidth === 64")
    drop(page, "#create h1", drawn(tmp_path, "last.png"))  # beside a place it takes the one that is free
    expect(page.get_by_role("img", name="last.png")).to_be_visible()
    page.get_by_role("button", name="Remove the last picture").click()
    expect(page.get_by_role("img", name="last.png")).to_be_hidden()
    page.locator("#last_image").set_input_files(tmp_path / "last.png")
    ask(page, "a turtle walks")
    await_video(page)
    assert fake.asked[0]["files"] == ["input_reference", "last_reference"]
    page.get_by_role("button", name="Remove the first picture").click()
    expect(last).to_be_hidden()
    page.get_by_role("button", name="Again with changes").click()
    expect(page.get_by_role("img", name="first.png")).to_be_visible()
    expect(page.get_by_role("img", name="last.png")).to_be_visible()


def test_what_is_no_picture_is_told(visit: Open, tmp_path: Path) -> None:
    page, _ = visit()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "text.txt").write_bytes(b"no picture")
    for name in ("text.txt", "broken.png"):
        drop(page, "#create h1", tmp_path / name)
        expect(page.locator("#image-error")).to_have_text(f"{name} is not a picture that this browser can show.")


def test_the_form_follows_the_model(visit: Open, tmp_path: Path, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, seconds=0.3))
    page.locator("#model").select_option("t2v-1.3b")
    expect(page.locator("#pictures")).to_be_hidden()
    assert page.locator("#size option").all_inner_texts() == ["832 × 480", "480 × 832", "other …"]
    assert page.locator("#negative").input_value() == "色调艳丽，过曝，静态"
    page.get_by_text("Details").click()
    page.locator("#negative").fill("")
    page.locator("#size").select_option("own")
    page.get_by_label("Width in pixels").fill("640")
    ask(page, "a cat")
    await_video(page)
    sent = {"prompt": "a cat", "model": "t2v-1.3b", "size": "640x480", "negative": ""}
    assert fake.asked[0] == {**sent, "files": [], "path": "/v1/videos"}
    page.locator("#model").select_option("i2v-14b-480p")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#image-error")).to_contain_text("starts from a picture")
    expect(page.locator("#image")).to_be_focused()
    page.locator("#image").set_input_files(drawn(tmp_path))
    assert page.locator("#size option").first.inner_text() == "as the picture"


# When it does not work


def test_errors_are_told_where_they_belong(visit: Open) -> None:
    page, _ = visit(statuses=(400, 403, 429))
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#prompt-error")).to_contain_text("at least one word")
    ask(page, "wrong steps")
    expect(page.locator("#steps-error")).to_contain_text("nearest valid value: 4")
    expect(page.get_by_label("Steps")).to_be_focused()
    ask(page, "refuse this")
    alert = page.locator("#form-error")
    expect(alert).to_contain_text("This will not be made here.")
    expect(alert).to_contain_text("rule words.violence")
    ask(page, "full house")
    expect(alert).to_contain_text("The queue is full.")
    expect(alert).to_contain_text("room again in 40 sec")
    expect(alert).to_contain_text("room again in 39 sec")
    expect(page.locator(".card")).to_have_count(0)


def test_a_failed_video_says_why(visit: Open, clips: list[Clip]) -> None:
    page, _ = visit(Fake(clips, seconds=0.5))
    ask(page, "this will fail")
    expect(page.locator("#failed")).to_contain_text("There was not enough memory.")
    expect(page.locator("#failed")).to_contain_text("denoising needs more memory than there is")
    page.locator("#language").select_option("de")
    expect(page.locator("#failed")).to_contain_text(table("de")["error_out_of_memory"])


def test_a_server_that_is_not_ready_says_so(visit: Open, clips: list[Clip]) -> None:
    page, _ = visit(Fake(clips, loading=time.time() + 3), statuses=(503,))
    expect(page.locator("#server-word")).to_have_text("Getting ready")
    expect(page.locator("#notice")).to_contain_text("nano: weights are being loaded")
    expect(page.locator("#server-word")).to_have_text("Ready")
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize("key", [None, "ls_secret"])
def test_without_streams_the_page_asks_every_two_seconds(visit: Open, clips: list[Clip], key: str | None) -> None:
    page, _ = visit(Fake(clips, key=key, streams=False, seconds=4), statuses=(401, 404))
    if key:
        page.get_by_label("API key", exact=True).fill(key)
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#key-form")).to_be_hidden()
    ask(page, "a helicopter")
    expect(page.locator("#where")).to_contain_text("step")
    await_video(page)


def test_a_server_that_is_away_is_told_and_comes_back(visit: Open) -> None:
    page, fake = visit()
    page.context.set_offline(True)
    ask(page, "a whale")
    expect(page.locator("#form-error")).to_contain_text("The server does not answer.")
    expect(page.locator("#server-word")).to_have_text("No connection")
    assert page.locator("#prompt").input_value() == "a whale"
    page.context.set_offline(False)
    expect(page.locator("#server-word")).to_have_text("Ready")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".card")).to_have_count(1)
    assert len(fake.asked) == 1


def test_a_key_is_asked_for_and_kept_for_the_session_only(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit(Fake(clips, key="ls_secret", seconds=1.5), statuses=(401,))
    field = page.get_by_label("API key", exact=True)
    expect(field).to_be_visible()
    page.get_by_role("button", name="Generate").click()
    expect(field).to_be_focused()
    field.fill("ls_wrong")
    page.get_by_role("button", name="Use key").click()
    expect(page.locator("#key-hint")).to_have_text("The server does not know this key.")
    field.fill("ls_secret")
    field.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    ask(page, "a penguin")
    expect(page.locator("#where")).to_contain_text("step")
    page.locator("#preview:not([hidden])").wait_for()
    await_video(page)
    assert page.locator("#video").get_attribute("src").startswith("blob:")  # type: ignore[union-attr]
    assert page.evaluate("JSON.stringify(localStorage)").find("ls_secret") < 0
    page.reload()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator("#key-form")).to_be_hidden()
    page.get_by_role("button", name="Forget the API key").click()
    expect(page.locator("#key-form")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)
    assert len(fake.jobs) == 1


# Checking


def test_files_are_checked_one_after_the_other(visit: Open, clips: list[Clip]) -> None:
    page, fake = visit()
    page.get_by_role("tab", name="Verify").click()
    for number, (state, kind, title) in enumerate((
        ("trusted", "here", "Sealed here"),
        ("intact", "intact", "Signed by an unknown signer"),
        ("tampered", "tampered", "Changed since it was signed"),
        ("none", "none", "Nothing found"),
    )):  # fmt: skip
        fake.report = report(state)
        if state == "trusted":
            drop(page, "#drop", clips[0].path)
        else:
            page.locator("#file").set_input_files(clips[number].path)
        found = page.locator(f'#report[data-kind="{kind}"]')
        expect(found.get_by_role("heading", name=title)).to_be_visible()
        expect(found).to_contain_text(report(state)["verdict"])
        expect(found.locator(".verdict svg")).to_be_visible()
        expect(found).to_contain_text("not found" if state == "none" else "found, number 3f3f3f3f, strength 9.3")
        if state == "trusted":
            expect(found).to_contain_text("Recorded parameters")
            expect(found).to_contain_text("1234")


def test_one_click_checks_what_was_just_made(visit: Open, clips: list[Clip]) -> None:
    page, _ = visit(Fake(clips, seconds=0.3))
    ask(page, "a rocket")
    await_video(page)
    page.get_by_role("button", name="Check its seal").click()
    expect(page.locator("#report")).to_contain_text(re.compile(r"lichtspiel-a-rocket-\w{4}\.mp4"))
    page.go_back()
    expect(page.locator("#create")).to_be_visible()


def test_choices_and_bounds_are_those_of_the_server(visit: Open) -> None:
    page, _ = visit(locale="de-DE")
    page.locator("#details summary").click()
    for name in ("solver", "upscale", "fit"):
        values = page.eval_on_selector_all(f"#{name} option", "all => all.map(one => one.value)")
        assert [value for value in values if value] == [str(value) for value in PROPERTIES[name]["enum"]]
    assert page.locator("#upscale option").all_inner_texts() == [table("de")[f"upscale_{n}"] for n in (1, 2, 4)]
    for name in ("steps", "guidance", "shift"):
        rule = PROPERTIES[name]
        assert page.get_attribute(f"#{name}", "max") == str(rule["maximum"])
        assert page.get_attribute(f"#{name}", "min") == str(rule.get("minimum", rule.get("exclusiveMinimum")))
    assert page.get_attribute("#prompt", "maxlength") == str(PROPERTIES["prompt"]["maxLength"])


def test_a_picture_is_enlarged(visit: Open, clips: list[Clip], tmp_path: Path) -> None:
    page, fake = visit(Fake(clips, seconds=0.5))
    drop(page, "#pictures", drawn(tmp_path))
    page.get_by_text("Details").click()
    page.get_by_label("Larger").select_option("4")
    ask(page, "a bee")
    await_video(page)
    assert value_of("upscale", fake.asked[0]["upscale"]) == 4
