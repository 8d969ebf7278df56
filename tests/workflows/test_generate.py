"""No finished work is lost: what is kept, for how long, and what a failure says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lichtspiel.errors import (
    Interrupted,
    InvalidInput,
    LichtspielError,
    MediaError,
    NonFinite,
    OutputError,
    Refused,
)
from lichtspiel.inference.inputs import resolve_request
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.inference.preprocess import vace_inputs
from lichtspiel.policy import Verdict, rules
from lichtspiel.request import Request
from lichtspiel.seal import verify
from lichtspiel.workflows import latents
from lichtspiel.workflows.admission import admit
from lichtspiel.workflows.generate import Observer, decode, denoising_share, generate
from lichtspiel.workflows.latents import mark_decoded, read_latents, save_latents
from lichtspiel.workflows.terms import Terms
from tests.media.test_media import write_video

CONSENT = Terms(consent="colours only")


def test_a_failure_while_decoding_names_the_latents(
    random_nano: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, errors = Pipeline.decode, [KeyboardInterrupt(), NonFinite("decoding", "x"), RuntimeError("out of memory")]

    def broken(self: Pipeline, latents: torch.Tensor) -> Iterator[np.ndarray]:
        for number, frame in enumerate(whole(self, latents)):
            if number == 3:
                raise errors[0]
            yield frame

    out = tmp_path / "video.mp4"
    request = Request.of(prompt="a turtle", steps=1, frames=5, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "decode", broken)
        with pytest.raises(Interrupted, match="nothing is lost: lichtspiel decode"):
            generate(request, out, weights=random_nano)
        (kept,) = (home / "latents").glob("*.safetensors")
        while errors.pop(0) and errors:
            with pytest.raises(LichtspielError, match="nothing is lost: lichtspiel decode") as raised:
                decode(kept, out, weights=random_nano)
            assert not isinstance(raised.value, Interrupted)
    assert list(tmp_path.iterdir()) == []
    assert kept.stat().st_mode & 0o777 == 0o600
    assert decode(kept, out, weights=random_nano).request == request
    assert out.is_file()


def test_an_interruption_while_denoising_says_so(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "denoise", stop)
    with pytest.raises(Interrupted, match="stopped while denoising"):
        generate(Request.of(prompt="a turtle", steps=1), tmp_path / "video.mp4", weights=random_nano)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 2])  # with one, the shares of five frames add up to a little more than one
def test_progress_runs_from_zero_to_one_and_includes_decoding(steps: int, random_nano: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    request = Request.of(prompt="a turtle", steps=steps, frames=5)
    observer = Observer(progress=lambda *step: seen.append(step))
    generate(request, tmp_path / "v.mp4", weights=random_nano, observer=observer)
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any(name.startswith("decoding") for name, _ in seen)


def test_only_decoded_latents_are_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "KEPT", 3)
    request = Request.of(prompt="a turtle", frames=1)
    paths = [save_latents(torch.zeros(1, 16, 1, 16, 16), request, f"{number:032d}") for number in range(10)]
    assert all(path.exists() for path in paths)
    for path in paths[:6]:
        mark_decoded(path)
    assert [path for path in paths if path.exists()] == paths[3:]
    tensor, read = read_latents(paths[-1])
    assert tensor.shape == (1, 16, 1, 16, 16)
    assert read == request


def test_many_processes_may_keep_latents_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "KEPT", 2)
    request, nothing = Request.of(prompt="a turtle"), torch.zeros(1, 16, 1, 2, 2)

    def keep(number: int) -> Path:
        path = save_latents(nothing, request, f"{number:032d}")
        mark_decoded(path)
        return path

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(keep, range(200)))
    assert len(found) == 200
    assert len(list((home / "latents").iterdir())) <= 2 * 10  # two, and what threads put there at the very end


def test_latents_that_are_not_of_their_request_are_not_decoded(home: Path, tmp_path: Path) -> None:
    request = Request.of(prompt="a turtle", frames=17)
    for shape in ((1, 16, 3, 16, 16), (3, 16, 5, 16, 16), (16, 5, 16, 16), (1, 16, 5, 15, 17), ()):
        path = save_latents(torch.zeros(shape), request, "0" * 32, tmp_path)
        with pytest.raises(MediaError, match="its request makes 1x16x5x16x16; it was altered"):
            decode(path, tmp_path / "v.mp4")
    for content in ("[]", "null", "{", "[" * 5000, '{"prompt": 5}'):
        save_file({"latents": torch.zeros(1, 16, 5, 16, 16)}, path, {"request": content})
        with pytest.raises(InvalidInput):
            decode(path, tmp_path / "v.mp4")


def test_a_data_folder_that_takes_no_latents_is_found_before_the_work(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "encode", None)  # whoever calls it fails
    request = Request.of(prompt="a turtle", steps=1, frames=5)
    with monkeypatch.context() as patch:
        patch.setattr(latents.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        patch.setattr("lichtspiel.workflows.generate.check_outputs", lambda *_: None)
        with pytest.raises(OutputError, match=r"latents: 0 MiB are free.*LICHTSPIEL_HOME"):
            generate(request, tmp_path / "v.mp4", weights=random_nano)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "latents").write_text("a file where the folder should be")
    monkeypatch.setenv("LICHTSPIEL_HOME", str(tmp_path / "home"))
    with pytest.raises(OutputError, match=r"latents cannot be kept here.*LICHTSPIEL_HOME"):
        generate(request, tmp_path / "v.mp4", weights=random_nano)


def test_a_data_folder_that_fills_up_meanwhile_costs_no_video(
    random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lichtspiel.workflows.generate.save_latents", full)
    result = generate(Request.of(prompt="a turtle", steps=1, frames=1), tmp_path / "v.mp4", weights=random_nano)
    assert (tmp_path / "v.mp4").is_file()
    assert result.latents is None
    assert any("latents could not be kept: No space left" in note for note in result.notes)


def test_a_refusal_after_denoising_names_latents_and_flag(
    random_nano: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = Verdict("needs consent", "sexual", "frames.review", "a person should look")
    monkeypatch.setattr(rules, "judge_frames", lambda frames, has_image: asks)
    request = Request.of(prompt="a turtle", steps=1, frames=1)
    with pytest.raises(Refused, match=r"add --consent .* to lichtspiel decode '.*safetensors' -o '.*v\.mp4'"):
        generate(request, tmp_path / "v.mp4", weights=random_nano)
    (kept,) = (home / "latents").glob("*.safetensors")
    decode(kept, tmp_path / "v.mp4", weights=random_nano, terms=CONSENT)
    assert (tmp_path / "v.mp4").is_file()


def test_a_contact_sheet_passes_the_door(random_nano: Path, tmp_path: Path) -> None:
    request = Request.of(prompt="a turtle", steps=1, frames=5)
    generate(request, tmp_path / "v.mp4", weights=random_nano, sheet=tmp_path / "sheet.png")
    report = verify(tmp_path / "sheet.png")
    assert report.credentials.state == "trusted"
    assert report.credentials.id == verify(tmp_path / "v.mp4").credentials.id


def test_no_result_replaces_a_given_file_or_another_result(tmp_path: Path) -> None:
    picture, out = tmp_path / "first.png", tmp_path / "v.mp4"
    Image.new("RGB", (64, 64), "orange").save(picture)
    before = picture.read_bytes()
    given = Request.of(prompt="a turtle", image=picture, frames=1)
    with pytest.raises(OutputError, match="--out and --image name the same file"):
        generate(given, tmp_path / "." / "first.png")
    with pytest.raises(OutputError, match="--sheet and --image name the same file"):
        generate(given, out, sheet=picture)
    with pytest.raises(OutputError, match="--sheet and --out name the same file"):
        generate(Request.of(prompt="a turtle", frames=1), tmp_path / "a.png", sheet=tmp_path / "a.png")
    assert picture.read_bytes() == before


def test_a_prompt_that_is_not_recorded_is_nowhere_on_disk(random_nano: Path, tmp_path: Path, home: Path) -> None:
    terms = Terms(record_prompt=False)
    request = Request.of(prompt="a whale named Zebrafax", negative="Quaggadust", steps=1, frames=1, seed=1)
    result = generate(request, tmp_path / "v.mp4", weights=random_nano, terms=terms)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if b"Zebrafax" in path.read_bytes() or b"Quaggadust" in path.read_bytes()] == []
    assert result.latents is not None
    with pytest.raises(InvalidInput, match="give it with --prompt"):
        read_latents(result.latents)
    with pytest.raises(InvalidInput, match="exact words"):
        read_latents(result.latents, prompt="a whale", negative="Quaggadust")
    assert read_latents(result.latents, prompt=request.prompt, negative=request.negative)[1] == request


def test_a_foreign_file_holds_no_latents(random_nano: Path, tmp_path: Path) -> None:
    for path in (random_nano / "vae.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(MediaError, match="latents"):
            read_latents(path)


def test_more_steps_make_denoising_a_larger_share() -> None:
    few, many = (denoising_share(Request.of(prompt="x", steps=steps)) for steps in (2, 50))
    assert 0 < few < many < 1


def test_what_was_judged_is_what_is_encoded(
    random_nano: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "first.png"
    Image.new("RGB", (64, 64), "orange").save(picture)
    fields = {"prompt": "a turtle", "image": picture, "steps": 1, "frames": 1, "seed": 1, "guidance": 1}
    request, inputs = resolve_request(**fields)
    expected = generate(request, tmp_path / "a.mp4", weights=random_nano, terms=CONSENT, inputs=inputs)
    judge, loaded = rules.judge_image, []

    def exchanged(image: np.ndarray) -> object:
        Image.new("RGB", (64, 64), "blue").save(picture)
        loaded.append(image[0, 0].tolist())
        return judge(image)

    monkeypatch.setattr(rules, "judge_image", exchanged)
    Image.new("RGB", (64, 64), "orange").save(picture)
    made = generate(request, tmp_path / "b.mp4", weights=random_nano, terms=CONSENT)
    assert loaded == [[255, 165, 0]]
    assert torch.equal(read_latents(made.latents)[0], read_latents(expected.latents)[0])
    assert verify(tmp_path / "b.mp4").record.inputs == verify(tmp_path / "a.mp4").record.inputs


@pytest.mark.parametrize("frames", [None, 5])
def test_a_video_is_decoded_once(frames: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", count=5, rate=16)
    opens: list[str] = []
    opened = av.open
    monkeypatch.setattr(av, "open", lambda name, **options: opens.append(name) or opened(name, **options))
    request, inputs = resolve_request(prompt="x", model="vace-1.3b", video=path, size="64x48", frames=frames)
    admission = admit(request, CONSENT, inputs)
    assert vace_inputs(request, admission.inputs).video.shape == (3, 5, 48, 64)
    assert len(opens) == 2  # for its time stamps, and to decode it


def test_the_unread_end_of_a_long_prompt_is_noted(random_nano: Path, tmp_path: Path) -> None:
    beginning = " ".join(["a pig walks on a beach at sunset"] * 6)
    request = Request.of(prompt=f"{beginning} a whale swims", steps=1, frames=1)
    result = generate(request, tmp_path / "v.mp4", weights=random_nano)
    (note,) = [note for note in result.to_json()["notes"] if "is not read" in note]
    assert note.startswith("the end of the prompt is not read, from ")
    assert note.endswith("nano reads 48 tokens; shorten it")
