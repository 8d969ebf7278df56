"""A person's own clips and pictures: how they are read, what is refused, and that training on them learns."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lichtspiel.cli import app
from lichtspiel.errors import InvalidInput
from lichtspiel.inference.pipeline import load
from lichtspiel.request import Request
from lichtspiel.spec import MODELS
from lichtspiel.tokenizer import END, UNKNOWN, Tokenizer, umt5
from lichtspiel.train.data import Shape, of_length
from lichtspiel.train.dit import DiTPlan, TrainingSet, draw_batch, train_dit
from lichtspiel.train.folder import FolderDataset, cache_folder
from lichtspiel.train.latents import encode_dataset
from lichtspiel.train.nano import samples
from lichtspiel.train.nano.variants import STANDARD, VARIANTS
from lichtspiel.train.optim import adamw
from lichtspiel.train.state import Budget
from lichtspiel.train.text import Prompts, vocabulary
from lichtspiel.train.vae import VAEPlan, blank_vae, train_vae

SHAPE = Shape(width=32, height=32, frames=9)
NANO = MODELS["nano"]
TINY_VAE = replace(NANO.vae, width=4)
COLORS = {"red": (220, 40, 40), "blue": (40, 60, 220)}


def write_clip(path: Path, frames: int, fps: int, color: tuple[int, int, int]) -> None:
    """A clip of 48x36 pixels whose left part is brighter from frame to frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        for index in range(frames):
            picture = np.full((36, 48, 3), color, np.uint8)
            picture[:, :8] = 6 * index
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, color in COLORS.items():
        write_clip(folder / f"{name}.mp4", 40, 16, color)
        (folder / f"{name}.txt").write_text(f"a {name}\nwall\n")
    Image.new("RGB", (64, 40), (30, 200, 60)).save(folder / "green.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "green.png", "text": "a green wall"}) + "\n\n")
    (folder / "notes.pdf").write_text("no clip")
    return folder


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FolderDataset:
    return cache_folder(folder, tmp_path_factory.mktemp("run") / "clips", SHAPE, fps=8)


def test_videos_are_cut_into_clips_at_the_models_rate(data: FolderDataset) -> None:
    # 40 frames at 16 per second are 20 at 8 per second: two clips of nine frames.
    assert [data.length(index) for index in range(len(data))] == [1, 9, 9, 9, 9]
    assert [data.text(index, None) for index in range(len(data))] == [
        "a green wall", "a blue wall", "a blue wall", "a red wall", "a red wall"
    ]  # fmt: skip
    assert list(of_length(data, 9)) == [1, 2, 3, 4]
    assert data.shape == SHAPE
    first, second = data.video(1), data.video(2)
    assert first.shape == (9, 32, 32, 3)
    edge = np.concatenate([first, second])[:, 16, 1].mean(axis=1)
    assert np.abs(edge - 12 * np.arange(18)).max() < 8  # every second frame, 6 brighter each, without a gap


def test_frames_are_scaled_and_cropped_around_their_center(data: FolderDataset) -> None:
    assert np.abs(data.video(0)[0].mean(axis=(0, 1)) - (30, 200, 60)).max() < 3
    assert np.abs(data.video(3)[0, :, 12:].mean(axis=(0, 1)) - COLORS["red"]).max() < 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "red.txt").unlink(), r"1 files in .* no caption, such as red\.mp4; write it into red\.txt"),
        (lambda f: (f / "red.txt").write_text(" \n"), "no caption"),
        (lambda f: (f / "metadata.jsonl").write_text("{}"), "metadata.jsonl, line 1: expected an object"),
        (
            lambda f: (f / "metadata.jsonl").write_text(json.dumps({"file_name": "gone.mp4", "text": "x"})),
            "names gone.mp4, which is no clip or picture",
        ),
        (lambda f: write_clip(f / "red.mp4", 8, 16, COLORS["red"]), "lasts 0.5 seconds, and a clip of 9 frames"),
        (lambda f: [path.unlink() for path in f.glob("*.mp4")], "holds no videos"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(change, message: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "green.txt").write_text("a green wall")
    (copy / "metadata.jsonl").unlink()
    change(copy)
    with pytest.raises(InvalidInput, match=message):
        cache_folder(copy, tmp_path / "cache", SHAPE, fps=8)
    assert not (tmp_path / "cache").exists()


def test_training_on_a_folder_learns(data: FolderDataset, tmp_path: Path) -> None:
    measured: list[dict[str, float]] = []
    plan = VAEPlan(
        budget=Budget(steps=60), crop=16, frames=(1, 5), batch=2, optimizer=partial(adamw, learning_rate=3e-3),
        decay_from=0.5, device="cpu", seed=1,
    )  # fmt: skip
    vae = train_vae(plan, TINY_VAE, data, data, tmp_path / "vae", log=measured.append)
    assert measured[-1]["psnr"] > measured[0]["psnr"] + 2
    assert "psnr subject" not in measured[-1]

    rows = vocabulary(data.texts)
    encoder = replace(NANO.umt5, vocabulary=len(rows), width=32, attention_width=32, ffn_width=64, heads=2, layers=1)
    dit = replace(NANO.dit, width=64, ffn_width=128, heads=2, layers=2, text_width=32)
    latents = encode_dataset(blank_with(vae), data, tmp_path / "l.safetensors", first=3, first_last=3, device="cpu")
    assert latents.latents.shape == (4, 16, 3, 4, 4)
    assert latents.pictures.shape == (1, 16, 1, 4, 4)
    training = TrainingSet(latents, data, Prompts(Tokenizer.umt5(dit.text_length, rows)))
    plan = DiTPlan(
        budget=Budget(steps=60), batch=4, optimizer=partial(adamw, learning_rate=3e-3), shift=2.2, pictures=0.2,
        decay_from=0.5, device="cpu", seed=1, held_out=1,
    )  # fmt: skip
    model = replace(NANO, umt5=encoder, dit=dit)
    losses: list[dict[str, float]] = []
    train_dit(plan, model, training, tmp_path / "dit", log=losses.append)
    assert losses[-1]["validation"] < 0.9 * losses[0]["validation"]
    assert "auxiliary" not in losses[0]


def blank_with(vae: torch.nn.Module) -> torch.nn.Module:
    fresh = blank_vae(TINY_VAE)
    fresh.load_state_dict(vae.state_dict())
    return fresh.eval()


def test_pictures_are_drawn_only_where_one_frame_is_learnt(data: FolderDataset, tmp_path: Path) -> None:
    latents = encode_dataset(blank_vae(TINY_VAE), data, tmp_path / "l.safetensors", first=3, first_last=3, device="cpu")
    training = TrainingSet(latents, data, Prompts(Tokenizer.umt5(8, vocabulary(data.texts))))
    for length, items in ((1, {0, 1, 2, 3}), (3, {1, 2, 3})):
        generator = torch.Generator().manual_seed(0)
        batch = draw_batch(training, 64, length, 1, generator=generator, device="cpu")
        assert set(batch.items) == items
        assert batch.clean.shape == (64, 16, length, 4, 4)
        assert all(text in ("", data.texts[item]) for text, item in zip(batch.texts, batch.items, strict=True))


def test_a_vocabulary_of_a_size_keeps_the_commonest_pieces() -> None:
    common, rare = umt5().segment("wall")[0], umt5().segment("zebra")
    rows = vocabulary(["wall wall", "wall zebra"], size=3)
    assert rows == sorted({END, UNKNOWN, common})
    assert len(vocabulary(["wall"], size=50)) == 50
    assert set(rare) <= set(vocabulary(["wall zebra"]))


def test_from_a_folder_to_a_video_on_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = replace(NANO.umt5, width=32, attention_width=32, ffn_width=64, heads=2, layers=1)
    dit = replace(NANO.dit, width=64, ffn_width=128, heads=2, layers=2, text_width=32)
    sampling = replace(NANO.sampling, steps=2, sizes=((32, 32),), frames=9, max_frames=9)
    model = replace(NANO, umt5=encoder, dit=dit, vae=TINY_VAE, sampling=sampling)
    variant = replace(
        STANDARD,
        model=model,
        teacher=replace(STANDARD.teacher, steps=2),
        shape=SHAPE,
        vae_frames=(5,),
        crop=16,
        batch=2,
    )
    monkeypatch.setitem(MODELS, "nano", model)
    monkeypatch.setitem(VARIANTS, "standard", variant)
    monkeypatch.setattr("lichtspiel.train.nano.variants.STANDARD", variant)
    monkeypatch.setattr(samples, "sheet", lambda frames, path: None)
    run = tmp_path / "run"
    result = CliRunner().invoke(app, ["train", "vae", str(folder), "--run", str(run), "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert f"lichtspiel train dit --run {run}" in result.output
    result = CliRunner().invoke(app, ["train", "dit", "--run", str(run), "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert f"lichtspiel generate 'a red wall' --weights {run}/weights" in result.output
    request = Request.of(prompt="a red wall", device="cpu", dtype="float32", steps=1)
    pipeline = load(request, run / "weights")
    assert pipeline.encode(request).text.isfinite().all()
    assert pipeline.tokenizer.unknown_words("a red wall") == []
