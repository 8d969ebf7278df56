"""No finished work is lost: what is kept, for how long, and what a failure says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lichtspiel.errors import Interrupted, LichtspielError, MediaError, NonFinite
from lichtspiel.inference.inputs import resolve_request
from lichtspiel.inference.pipeline import Pipeline
from lichtspiel.inference.preprocess import vace_inputs
from lichtspiel.policy import rules
from lichtspiel.request import Request
from lichtspiel.seal import verify
from lichtspiel.workflows import latents
from lichtspiel.workflows.admission import admit
from lichtspiel.workflows.generate import Observer, decode, denoising_share, generate
from lichtspiel.workflows.latents import keep, read_latents
from lichtspiel.workflows.terms import Terms
from tests.media.test_media import write_video

CONSENT = Terms(consent="colours only")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NonFinite("decoding", "x"), RuntimeError("out of memory")])
def test_a_failure_while_decoding_names_the_latents(
    error: BaseException, random_nano: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pipeline.decode

    def broken(self: Pipeline, latents: torch.Tensor) -> Iterator[np.ndarray]:
        for number, frame in enumerate(whole(self, latents)):
            if number == 3:
                raise error
            yield frame

    out = tmp_path / "video.mp4"
    request = Request.of(prompt="a turtle", steps=1, frames=5, seed=1)
    monkeypatch.setattr(Pipeline, "decode", broken)
    expected = Interrupted if isinstance(error, KeyboardInterrupt) else LichtspielError
    with pytest.raises(expected, match="nothing is lost: lichtspiel decode"):
        generate(request, out, weights=random_nano)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("LICHTSPIEL_HOME", str(home))
    (kept,) = (home / "latents").glob("*.safetensors")
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


def test_only_the_newest_latents_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "KEPT", 3)
    request = Request.of(prompt="a turtle")
    for number in range(5):
        latest = keep(torch.zeros(1, 16, 1, 8, 8), request, f"{number:032d}")
    assert len(list((home / "latents").iterdir())) == 3
    tensor, read = read_latents(latest)
    assert tensor.shape == (1, 16, 1, 8, 8)
    assert read == request


def test_many_processes_may_keep_latents_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "KEPT", 2)
    request, nothing = Request.of(prompt="a turtle"), torch.zeros(1, 16, 1, 2, 2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: keep(nothing, request, f"{number:032d}"), range(200)))
    assert len(found) == 200


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
    fields = {"prompt": "a turtle", "image": picture, "steps": 1, "frames": 5, "seed": 1, "guidance": 1}
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
def test_a_video_is_opened_and_decoded_once(
    frames: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "v.mp4", count=5)
    opens: list[str] = []
    opened = av.open
    monkeypatch.setattr(av, "open", lambda name, **options: opens.append(name) or opened(name, **options))
    request, inputs = resolve_request(prompt="x", model="vace-1.3b", video=path, size="64x48", frames=frames)
    admission = admit(request, CONSENT, inputs)
    assert vace_inputs(request, admission.inputs).video.shape == (3, 5, 48, 64)
    assert len(opens) == 1
