"""From a person's folder to an open cache: find, read, judge, cut, encode. What is wrong with the data ends it here,
before any network is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lichtspiel.errors import InvalidInput
from lichtspiel.spec import Model
from lichtspiel.storage import home
from lichtspiel.tokenizer import Tokenizer
from lichtspiel.tune.cache import Cache, Facts, Row, write_index
from lichtspiel.tune.dataset import DataOptions, Finding, Sample
from lichtspiel.tune.encode import Encoder
from lichtspiel.tune.layouts import Found
from lichtspiel.tune.people import People
from lichtspiel.tune.samples import cut_items, data_digest
from lichtspiel.tune.scan import find_items
from lichtspiel.tune.survey import survey
from lichtspiel.weights.checkpoint import Checkpoint, Files, checkpoint

__all__ = ["Observe", "Surveyed", "assemble", "default_cache", "encode", "look_through", "prepare", "reader"]

SHOWN = 20
"""How many findings an error names."""


@dataclass(frozen=True, kw_only=True)
class Observe:
    """Who follows the work: `progress` gets a stage and the share of it that is done, `note` what a person should
    know."""

    progress: Callable[[str, float], None] = lambda stage, done: None
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Surveyed:
    """A data set that was read in full: its samples, what was found, and what the policy says."""

    samples: list[Sample]
    found: Found
    people: People

    @property
    def refusals(self) -> list[Finding]:
        """What keeps a run from starting."""
        return [finding for finding in self.found.findings if finding.refused]

    @property
    def notes(self) -> list[Finding]:
        """What a person should know."""
        return [finding for finding in self.found.findings if not finding.refused]

    def check(self) -> None:
        """Raise InvalidInput with everything that keeps a run from starting."""
        if not self.refusals:
            return
        lines = [str(finding) for finding in self.refusals[:SHOWN]]
        if more := len(self.refusals) - len(lines):
            lines.append(f"and {more} more; `lichtspiel tune check` lists all")
        raise InvalidInput("the data cannot be used as they are: " + "; ".join(lines))


def default_cache(data: Path, row: Model) -> Path:
    """Where the cache of a data set is kept for a model, so that checking and tuning share it."""
    name = hashlib.sha256(f"{data.resolve()}\0{row.name}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return home() / "tune" / name


def reader(row: Model, weights: Files) -> Tokenizer:
    """The tokenizer of a model; that of a published one needs no files."""
    return checkpoint(row, weights).tokenizer() if row.embedded else Tokenizer.umt5(row.dit.text_length)


def look_through(data: Path, row: Model, tokenizer: Tokenizer, options: DataOptions, observe: Observe) -> Surveyed:
    """Find and read all data, and cut it into samples. Loads no network.

    Raises InvalidInput for data or options that make no sense as a whole; what is wrong with single files is in the
    findings.
    """
    found = find_items(data, row, options)
    people = People()
    read = survey(found, row, tokenizer, watch=people.watch, progress=observe.progress)
    for item in read.items:
        people.read(item.path, item.caption)
    people.add_refusals(found)
    samples = cut_items(found, read, row, options.held_out) if read.items else []
    return Surveyed(samples, found, people)


def encode(surveyed: Surveyed, encoder: Encoder, options: DataOptions, observe: Observe) -> Cache:
    """Encode what is not in the cache yet, write its index and open it.

    Raises InvalidInput if something keeps the run from starting, Refused if consent is needed and was not stated, and
    OutputError if the disk is too small; all of them before a network is loaded.
    """
    surveyed.check()
    surveyed.people.consent(options.consent, encoder.folder)
    captions = [sample.item.caption for sample in surveyed.samples]
    encoder.check_disk(surveyed.samples, len(set(captions)))
    encoder.encode_texts(captions, observe.progress)
    encoder.encode_samples(surveyed.samples, observe.progress)
    made = assemble(surveyed, encoder, options, surveyed.samples)
    write_index(encoder.folder, made.facts, made.rows)
    return made


def assemble(surveyed: Surveyed, encoder: Encoder, options: DataOptions, samples: Sequence[Sample]) -> Cache:
    """An open cache of some samples of a data set, which are encoded already."""
    facts = Facts(
        model=encoder.row.name, made_by=encoder.made_by, digest=data_digest(surveyed.samples),
        triggers=options.triggers, people=len(surveyed.people.asking),
        consent=surveyed.people.consent(options.consent, encoder.folder),
    )  # fmt: skip
    rows = [
        Row(
            key=one.key, bucket=one.bucket, caption=one.item.caption, source=str(one.item.path),
            repeats=one.item.repeats, held_out=one.held_out,
        )
        for one in samples
    ]  # fmt: skip
    return Cache.of(encoder.folder, facts, rows)


def prepare(
    data: Path, row: Model, files: Checkpoint, options: DataOptions, cache: Path, *, device: str, observe: Observe
) -> Cache:
    """The cache of a data set, made as far as it is not there. Raises as `look_through` and `encode`."""
    surveyed = look_through(data, row, files.tokenizer(), options, observe)
    for finding in surveyed.notes:
        observe.note(str(finding))
    return encode(surveyed, Encoder.of(row, files, cache, device), options, observe)
