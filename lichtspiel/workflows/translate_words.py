"""The words of a translated video: what was said, heard or read from a file, and its translation.

A draft holds both, line by line, before anything is spoken or laid in, so that a person can look it through first.
This module makes no video; `translate` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lichtspiel.errors import InvalidInput, MediaError
from lichtspiel.media.sound import has_sound, read_sound
from lichtspiel.policy.verdict import Verdict
from lichtspiel.translate import hear, subtitle_files, tongues, translators
from lichtspiel.translate.glossary import Glossary
from lichtspiel.translate.lines import Line, Written
from lichtspiel.translate.mix import Original
from lichtspiel.translate.pitch import speakers
from lichtspiel.translate.protocols import Hearer
from lichtspiel.translate.voice_activity import RATE
from lichtspiel.workflows.terms import Inspection, Terms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


__all__ = ["Draft", "Job", "PictureText", "Progress", "Words", "admit_words", "draft", "speech"]

Progress = Callable[[str, float], None]

PictureText = Literal["tell", "replace"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for. Engines are named as they are typed (`engines`), languages by their codes.

    `source` None means what the engine finds, English by default. `transcript` is a subtitle file in the language of
    the video and takes the place of hearing; `subtitles` is one in the target language and takes the place of
    translating, too. `voices` are empty for subtitles alone; several are for several speakers. `shots` are the times,
    in seconds, at which a new shot begins; None finds them where the extra understand is installed. `lips` names
    what makes the lips follow the voice (`workflows.lips`); None leaves them as they are. With `spoken_label` the
    voice also says that it is AI-generated, which it does anyway where the marks show a label. `subtitle_file` is
    where the translation is written, too. `picture_text` says whether text in the picture is told, or replaced by the
    VACE model of `picture_options`, which are fields of a request, with the files `picture_weights`.
    """

    target: str
    source: str | None = None
    transcriber: str | None = None
    translator: str | None = None
    voices: tuple[str, ...] = ()
    transcript: Path | None = None
    subtitles: Path | None = None
    glossary: Path | None = None
    original: Original = "duck"
    spoken_label: bool = False
    burn: bool = False
    both: bool = False
    font: Path | None = None
    shots: tuple[float, ...] | None = None
    subtitle_file: Path | None = None
    lips: str | None = None
    picture_text: PictureText | None = None
    picture_weights: tuple[Path, ...] = ()
    picture_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The words of a video in two languages. `before` are the lines of the original, `lines` those of the translation;
    both have times in seconds and numbers of speakers. `pitches` are the speakers' in Hz, as far as they can be told
    apart (None where nobody listened for them), and `engines` are what heard and translated. `written` is the text in
    the picture as a person wants it, where that was read before; what has no translation stays."""

    source: str
    target: str
    before: tuple[Line, ...]
    lines: tuple[Line, ...]
    engines: dict[str, str] = field(default_factory=dict)
    pitches: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    written: tuple[Written, ...] | None = None


def draft(video: Path, job: Job, *, progress: Progress = lambda stage, done: None) -> Draft:
    """Hear and translate a video, and stop there. Raises InvalidInput, before any work, for engines, files and
    languages that are not there, and MediaError where the video has no speech."""
    words = Words(video, job, progress)
    words.check()
    return words.draft()


def admit_words(lines: Sequence[Line], terms: Terms, *, voiced: bool) -> Inspection:
    """The policy's word on what is to be said or shown. Raises Refused when it does not allow the words, or when a
    voice is wanted and nobody said that who speaks has agreed: it puts words into somebody's mouth."""
    if voiced and not (terms.consent or "").strip():
        says = "a synthetic voice says in another language what somebody said"
        terms.enforce(Verdict("needs consent", "voice", "voice.consent", says), "request", "")
    return terms.admit("\n".join(line.text for line in lines), [], has_image=False)


def speech(path: Path) -> npt.NDArray[np.float32]:
    """The sound of a file as engines for speech want it: mono at 16 kHz."""
    samples: npt.NDArray[np.float32] = read_sound(path, rate=RATE)[:, 0]
    return samples


@dataclass
class Words:
    """The way from a video to its draft. `translator` is at work once there is a draft that it made."""

    video: Path
    job: Job
    progress: Progress
    translator: translators.Translator | None = None
    hearer: Hearer | None = None
    glossary: Glossary = field(default_factory=Glossary)
    notes: list[str] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    pitches: tuple[float, ...] | None = None

    def check(self) -> None:
        """What can be known before any work: files, engines and languages."""
        job = self.job
        if job.both and job.subtitles is not None and job.transcript is None:
            raise InvalidInput("--both needs the words of the video too: add --transcript FILE, or drop --subtitles")
        if job.source == job.target:
            raise InvalidInput(
                f"--to {job.target}: that is the language of the video; `lichtspiel transcribe` writes it down"
            )
        self.glossary = Glossary.read(job.glossary) if job.glossary else Glossary()
        if job.subtitles is not None:
            return
        if job.transcript is None:
            if not has_sound(self.video):
                raise MediaError(f"{self.video}: has no sound track, so nothing is said; bring words: --subtitles FILE")
            self.hearer = hear.choose(job.transcriber, job.source)
        if job.source is not None or job.transcript is not None or job.transcriber in (None, "pocketsphinx"):
            self.translator = translators.choose(job.translator, job.source or "en", job.target)

    def shorten(self, text: str, share: float) -> str | None:
        """A line in fewer words, where what translated it can."""
        return None if self.translator is None else self.translator.shorten(text, self.job.target, share)

    def draft(self) -> Draft:
        """Hear, or read, and translate."""
        before, source = self._transcript()
        lines = self._translated(before, source)
        return Draft(
            source=source, target=self.job.target, before=tuple(before), lines=tuple(lines), engines=self.engines,
            pitches=self.pitches, notes=tuple(self.notes),
        )  # fmt: skip

    def _transcript(self) -> tuple[list[Line], str]:
        """The lines of the original, and its language. Without need of them, the user's own translation stands in."""
        job = self.job
        if job.transcript is not None:
            return self._told_apart(subtitle_files.read(job.transcript, flag="--transcript")), job.source or "en"
        if self.hearer is None:
            assert job.subtitles is not None
            return subtitle_files.read(job.subtitles), job.source or "und"
        self.progress("listening", 0.0)
        remedy = "bring the words: --transcript FILE in its language, or --subtitles FILE in the other"
        heard = hear.transcribe(self.hearer, speech(self.video), job.source, name=str(self.video), remedy=remedy)
        self.engines["transcriber"] = heard.engine
        self.notes += heard.notes
        self.pitches = heard.pitches
        if job.source is not None and heard.language != job.source:
            self.notes.append(
                f"the video seems to be in {tongues.name_of(heard.language)}, not in {tongues.name_of(job.source)}"
            )
        return heard.lines, heard.language

    def _told_apart(self, lines: list[Line]) -> list[Line]:
        """Lines of a file with the speakers that the sound tells, where several voices wait for them."""
        if len(self.job.voices) < 2 or not has_sound(self.video):
            return lines
        numbered, pitches = speakers(lines, speech(self.video))
        self.pitches = pitches
        return numbered

    def _translated(self, lines: list[Line], source: str) -> list[Line]:
        job = self.job
        if job.subtitles is not None:
            return self._told_apart(subtitle_files.read(job.subtitles))
        if self.translator is None:
            self.translator = translators.choose(job.translator, source, job.target)
        self.progress("translating", 0.2)
        done = translators.translate(self.translator, lines, source, job.target, self.glossary)
        self.engines["translator"] = self.translator.name
        self.notes += done.notes
        return done.lines
