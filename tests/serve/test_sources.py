"""Videos of the server as material for new ones: edits, extensions, files by id; and pairs of the client's own."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lichtspiel.client import ApiError, Client
from lichtspiel.footage.segment import box_of
from lichtspiel.media.media import read_frames
from lichtspiel.media.picture import load_image
from lichtspiel.seal import verify
from lichtspiel.serve.api import sources
from lichtspiel.serve.queue.api_keys import Keys
from tests.footage.files import clip, clip_file
from tests.inference.test_vace import folders  # noqa: F401  (a fixture)
from tests.serve.live import PROMPT, SMALL, client, live, settings, warm
from tests.tune.clips import write_frames

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


def mask() -> bytes:
    file = io.BytesIO()
    Image.new("L", (64, 48), "white").save(file, format="PNG")
    return file.getvalue()


def test_an_edit_takes_a_video_by_id_or_as_an_upload(
    folders: dict[str, Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    offered = settings(tmp_path / "server", folders["tiny-vace"], models=("tiny-vace",))
    with live(offered) as (server, address), Client(address) as plain:
        first = plain.create(PROMPT, frames=5)
        with pytest.raises(ApiError, match="is queued; there is no video of it to use as video"):
            plain.edit(first.id, "a fish")
        assert warm(server).once()
        by_id = plain.edit(first.id, "a fish", seed=3)
        film = plain.download(first.id, tmp_path / "first.mp4")
        # The package openai takes uploads here; with an id it raises before it sends anything.
        sent = client(address).videos.edit(prompt="a fish", video=film.read_bytes(), extra_body={"seed": "3"})
        with film.open("rb") as content:
            files = {"video": content, "mask": mask()}
            masked = plain._json("POST", "/videos/edits", data={"prompt": "a fish"}, files=files)
        assert (by_id.fields["remixed_from_video_id"], by_id.fields["seconds"]) == (first.id, first.fields["seconds"])
        assert (masked["inputs"], masked["remixed_from_video_id"]) == (["mask", "video"], None)
        plain.delete(first.id)  # an edit keeps a copy of what it needs
        for _ in range(3):
            assert warm(server).once()
        made = [plain.get(id) for id in (by_id.id, sent.id, masked["id"])]
        assert [one.status for one in made] == ["completed"] * 3, [one.error for one in made]
        assert made[0].fields["model"] == "tiny-vace"
        said = verify(plain.download(by_id.id, tmp_path / "edited.mp4")).credentials
        assert [(one.role, one.relationship) for one in said.ingredients] == [("video", "parentOf")]


def test_an_extension_goes_on_from_the_last_frame_and_keeps_the_video(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path / "server", random_nano)) as (server, address):
        first = client(address).videos.create(model="nano", prompt=PROMPT, extra_body=SMALL)
        assert warm(server).once()
        with Client(address) as plain:
            film = plain.download(first.id, tmp_path / "first.mp4")
            longer = plain.extend(first.id, "it goes on", seconds=0.625, steps=1)
        upload = {"prompt": "it goes on", "seconds": "0.625", "steps": "1"}
        with Client(address) as plain, film.open("rb") as content:
            sent = plain._json("POST", "/videos/extensions", data=upload, files={"video": content})
        assert (longer.fields["remixed_from_video_id"], longer.fields["inputs"]) == (first.id, ["clip", "image"])
        *before, last = read_frames(film)
        for id in (longer.id, sent["id"]):
            with server.files.open(server.jobs.get(id, None).inputs["image"]) as stored:
                assert np.array_equal(np.asarray(Image.open(stored)), last)
            assert warm(server).once()
            assert server.jobs.get(id, None).state == "completed"
        with Client(address) as plain:
            whole = list(read_frames(plain.download(longer.id, tmp_path / "whole.mp4")))
            remixed = plain.remix(longer.id, "it goes on elsewhere")
            assert remixed.fields["inputs"] == ["clip", "image"]
        assert len(whole) == len(before) + 1 + 4  # of five new ones the first shows the last of the video
        for was, now in zip([*before, last], whole, strict=False):
            assert np.abs(was.astype(int) - now).mean() < 6  # it was encoded and marked once more
        said = verify(tmp_path / "whole.mp4").credentials
        assert next((one.role, one.relationship) for one in said.ingredients) == ("video", "parentOf")
        assert said.source_type == "compositeWithTrainedAlgorithmicMedia"
        with Client(address) as plain:
            sheet = plain.download(longer.id, tmp_path / "sheet.png", variant="spritesheet")
        assert verify(sheet).credentials.state == "trusted"
        assert load_image(sheet).shape[1] > 3 * 64


@pytest.mark.usefixtures("enlarged")
@pytest.mark.parametrize(("side", "sent", "upscale"), [(128, {}, 1), (256, {}, 4), (128, {"upscale": "2"}, 2)])
def test_what_is_added_to_a_small_video_is_not_enlarged(
    side: int, sent: dict[str, str], upscale: int, random_nano: Path, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    write_frames(film, [np.full((side, side, 3), 90, np.uint8)] * 5)
    with live(settings(tmp_path, random_nano)) as (_, address), Client(address) as plain, film.open("rb") as content:
        data = {"prompt": "it goes on", **sent}
        asked = plain._json("POST", "/videos/extensions", data=data, files={"video": content})
    assert asked["parameters"]["upscale"] == upscale


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("edits", {"video": {"id": "video_0"}}, 404, "there is no video 'video_0'"),
    ("edits", {}, 400, 'say which video to edit: one upload, or {"id"'),
    ("edits", {"video": "/etc/passwd"}, 400, "say which video to edit"),
    ("edits", {"video": "MINE"}, 400, "this server has nano; none of them edits videos"),
    ("extensions", {}, 400, "say which video to continue"),
    ("extensions", {"video": "MINE", "input_reference": "x"}, 400, "starts with the last frame"),
    ("extensions", {"video": "MINE", "model": "t2v-1.3b"}, 400, "this server has nano"),
    ("extensions", {"video": "MINE", "frames": 80}, 400, "nearest valid value: 17"),
    ("characters", {}, 404, "send pictures of a person as references"),
]


def test_what_is_wrong_with_them(random_nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live(settings(tmp_path, random_nano)) as (server, address), Client(address) as plain:
        mine = plain.create(PROMPT, **SMALL)
        assert warm(server).once()
        for path, fields, status, message in WRONG:
            sent = {name: {"id": mine.id} if value == "MINE" else value for name, value in fields.items()}
            with pytest.raises(ApiError) as caught:
                plain._json("POST", f"/videos/{path}", json={"prompt": "a fish", **sent})
            assert caught.value.status == status
            assert message in str(caught.value)
            assert str(tmp_path) not in str(caught.value)
        monkeypatch.setattr(sources, "MAX_PIXELS", 128 * 128 * 4)  # a worker could not hold it
        with pytest.raises(ApiError, match=r"5 frames of 128x128. is not valid: at most 1,500 frames and 0 million"):
            plain.extend(mine.id, "a fish", seconds=1)


def test_nobody_edits_what_belongs_to_somebody_else(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path, random_nano, require_key=True)) as (server, address):
        ada, grace = (Keys(server.jobs).create(name)[1] for name in ("ada", "grace"))
        with Client(address, ada) as hers, Client(address, grace) as his:
            mine = hers.create(PROMPT, **SMALL)
            assert warm(server).once()
            for ask in (his.edit, lambda id, prompt: his.extend(id, prompt, seconds=1)):
                with pytest.raises(ApiError, match="there is no video"):
                    ask(mine.id, "a fish")
            assert [*his.videos()] == []


def test_pairs_of_the_client_stay_with_the_video(random_nano: Path, tmp_path: Path) -> None:
    with live(settings(tmp_path, random_nano)) as (server, address):
        pairs = {"order": "7", "Ü": "ä"}
        made = client(address).videos.create(model="nano", prompt=PROMPT, extra_body={**SMALL, "metadata": pairs})
        with Client(address) as plain:
            assert plain.get(made.id).fields["metadata"] == pairs
            assert plain.create(PROMPT, metadata=pairs).fields["metadata"] == pairs
            assert plain.create(PROMPT).fields["metadata"] is None
            assert plain.remix(made.id, "a fish", metadata={"order": "8"}).fields["metadata"] == {"order": "8"}
            assert "metadata" not in plain.get(made.id).fields["parameters"]
        assert warm(server).once()
        assert server.jobs.get(made.id, None).state == "completed"


def test_a_mask_is_found_from_a_box_and_says_where_it_is_unsure(random_nano: Path, tmp_path: Path) -> None:
    source = clip_file(tmp_path, frames=4)
    with live(settings(tmp_path / "server", random_nano)) as (_, address), Client(address, timeout=300) as plain:

        def asked(**fields: object) -> dict[str, Any]:
            with source.open("rb") as content:
                return plain._json("POST", "/videos/masks", data=fields, files={"video": content})

        answer = asked(box=",".join(map(str, box_of(clip().masks[0] == 1) or ())), at=0)
        (tmp_path / "mask.mp4").write_bytes(base64.b64decode(answer["mask"]))
        masks = [frame[..., 0] > 127 for frame in read_frames(tmp_path / "mask.mp4")]
        truth = clip().masks[:4] == 1
        for mask, true in zip(masks, truth, strict=True):
            assert (mask & true).sum() / (mask | true).sum() > 0.7
        assert (answer["frames"], len(answer["confidence"]), answer["low"]) == (4, 4, [])
        assert verify(tmp_path / "mask.mp4").credentials.source_type == "algorithmicMedia"
        for fields, words in (
            ({"box": "1,2,3"}, "box: '1,2,3' is not valid: it is LEFT,TOP,RIGHT,BOTTOM"),
            ({"box": "0,0,9999,20"}, "box: .*reaches beyond the clip"),
            ({"box": "10,10,60,60", "at": 9}, "at: 9.* lasts from 0 to"),
            ({"box": "10,10,60,60", "at": "x"}, "at: 'x' is not valid"),
            ({"box": "10,10,60,60", "prompt": "a"}, "prompt: .*asked for by video, box, at and consent"),
        ):
            with pytest.raises(ApiError, match=words):
                asked(**fields)
