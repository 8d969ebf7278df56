"""Shared fixtures: a home of its own for every test, random weights of nano's shape on disk, and the processor that the
package believes it has: `pytest --processor float32` or `--processor bfloat16` runs everything as on such a machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lichtspiel import host
from lichtspiel.models.dit import DiT
from lichtspiel.models.umt5 import UMT5
from lichtspiel.models.vae import VAE
from lichtspiel.spec import MODELS
from lichtspiel.tokenizer import END, UNKNOWN, umt5

NANO = MODELS["nano"]
"""The model inside the package, as its users have it."""

UNITS = {"bfloat16": "flags\t: avx512_bf16 bf16\n", "float32": "flags\t: avx2\n"}
"""What Linux would say of a processor that has units for bfloat16, and of one that has none."""


LONGEST = (
    "serve/test_process.py",
    "tune/test_cluster.py",
    "serve/test_page.py",
    "test_house.py",
    "test_gpu_benchmark.py",
    "serve/test_group.py",
    "serve/test_page_form.py",
    "tune/test_check.py",
    "understand/test_ray.py",
    "inference/test_wiring.py",
    "inference/test_parallel.py",
    "workflows/test_translate.py",
    "workflows/test_edit.py",
    "test_cli.py",
)
"""Files that take longest, in the order in which they begin: what takes long and begins last runs alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; within a file the order stays."""
    folder = Path(__file__).parent
    order = {folder / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported, which stays: the package collects after each stage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let libraries that count what they leave behind find it gone."""
    gc.unfreeze()


def pytest_configure(config: pytest.Config) -> None:
    """Processes that share the cores compute in one thread each, and so do the commands that tests start. Clips of nano
    are enlarged only where a test asks for it, because that takes longer than all else that most tests do to a clip."""
    MODELS["nano"] = replace(NANO, sampling=replace(NANO.sampling, upscale=1))
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processor", choices=UNITS, help="run as on a processor that is fastest in this precision")


@pytest.fixture(scope="session", autouse=True)
def believed_processor(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The processor of `--processor` for the whole run; without the option, the one that is there."""
    with pytest.MonkeyPatch.context() as patch:
        if (fastest := pytestconfig.getoption("--processor")) is not None:
            description = tmp_path_factory.mktemp("processor") / "cpuinfo"
            description.write_text(UNITS[fastest])
            patch.setattr(host, "PROCESSOR", description)
        yield


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Tells the package, for one test, in which precision its processor is fastest."""
    description = tmp_path_factory.mktemp("processor") / "cpuinfo"

    def tell(fastest: str) -> None:
        description.write_text(UNITS[fastest])
        monkeypatch.setattr(host, "PROCESSOR", description)

    return tell


@pytest.fixture(scope="module")
def real_processor() -> Iterator[None]:
    """The processor that is there, whatever the others of this run believe: processes that are started see no other,
    and compute in its precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "PROCESSOR", Path("/proc/cpuinfo"))
        yield


@pytest.fixture
def enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test, nano's clips are enlarged without asking, as they are for its users."""
    monkeypatch.setitem(MODELS, "nano", NANO)


@pytest.fixture(scope="session", autouse=True)
def spare_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where fixtures that outlive a test find their data folder: not in the real one, nor in that of another module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LICHTSPIEL_HOME", str(tmp_path_factory.mktemp("spare")))
        yield


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of an installation that many tests share, because making it costs key generation."""
    return tmp_path_factory.mktemp("installation") / "lichtspiel"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Signing keys and latents of tests never touch the real data folder."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LICHTSPIEL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def random_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights of nano, in three files. Its VAE is narrow, which spares most of a test's time."""
    folder = tmp_path_factory.mktemp("random_nano")
    row = MODELS["nano"]
    torch.manual_seed(0)
    vae = VAE(replace(row.vae, width=8))
    dit = DiT(row.dit)
    dit.initialize()
    torch.nn.init.normal_(dit.head.head.weight, std=0.02)  # a fresh head is zero, which would hide mistakes
    # The ids of a few real words, so that prompts differ; the rest of the table is filled with other ids.
    known = {END, UNKNOWN, *umt5().segment("a turtle walks on the beach at night")}
    vocabulary = sorted([*known, *[piece for piece in range(2000, 4000) if piece not in known]][: row.umt5.vocabulary])
    statistics = {"latent_mean": torch.zeros(16), "latent_std": torch.ones(16)}
    half = {name: value.half() for name, value in vae.state_dict().items()}
    save_file(half | statistics, folder / "vae.safetensors")
    save_file({name: value.half() for name, value in dit.state_dict().items()}, folder / "dit.safetensors")
    encoder = {name: value.half() for name, value in UMT5(row.umt5).state_dict().items()}
    save_file(encoder | {"vocabulary": torch.tensor(vocabulary, dtype=torch.int32)}, folder / "umt5.safetensors")
    return folder
