"""A video in another language, from the file to the sealed file: hear, translate, speak, lay in.

The picture is copied bit by bit unless words are drawn into it. A synthetic voice is generated content, so the seal
says what was synthesized, and whoever speaks in the video must have agreed. This module asks the policy and the record;
the engines are in `translate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel import __version__
from lichtspiel.errors import InvalidInput, MediaError, OutputError
from lichtspiel.media.sound import has_sound, read_sound, sound_length
from lichtspiel.media.video import read_paced, sample_video, video_info
from lichtspiel.policy.verdict import Verdict
from lichtspiel.seal import Input, Provenance, Sealed, Sound, check_output, seal
from lichtspiel.seal.credentials import JSON, SourceType
from lichtspiel.seal.export import copies, seal_copy
from lichtspiel.seal.marks import Marks
from lichtspiel.seal.tracks import Cue as TextCue
from lichtspiel.seal.tracks import SoundTrack, Subtitles, Tracks
from lichtspiel.storage import atomic_write
from lichtspiel.translate import hear, mix, speak, subtitles, timing, tongues, translators
from lichtspiel.translate.burn import Burner
from lichtspiel.translate.glossary import Glossary
from lichtspiel.translate.hear import Transcript
from lichtspiel.translate.lines import Line
from lichtspiel.translate.mix import Original
from lichtspiel.translate.pitch import speakers
from lichtspiel.translate.protocols import Hearer, Voice
from lichtspiel.translate.voice_activity import RATE
from lichtspiel.understand.footage import Footage
from lichtspiel.understand.shots import Shots
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Inspection, Terms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lichtspiel.frames import Frame

__all__ = ["Job", "Result", "transcribe", "translate", "write_subtitles"]

_SAMPLES = 16
"""How many frames of a video whose picture is copied the policy looks at."""

LIPS = "the lips in the picture do not follow the new voice"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for. Engines are named as they are typed (`engines`), languages by their codes.

    `source` None means what the engine finds, English by default. `transcript` is a subtitle file in the language of
    the video and takes the place of hearing; `subtitles` is one in the target language and takes the place of
    translating, too. `voices` are empty for subtitles alone; several are for several speakers. `shots` are the times,
    in seconds, at which a new shot begins; None finds them where the extra understand is installed. `subtitle_file` is
    where the translation is written, too.
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
    burn: bool = False
    both: bool = False
    font: Path | None = None
    shots: tuple[float, ...] | None = None
    subtitle_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was made: the sealed video, its languages and engines, each line with what became of it, and notes."""

    sealed: Sealed
    source: str
    target: str
    engines: dict[str, str]
    lines: list[dict[str, JSON]]
    notes: list[str] = field(default_factory=list)
    picture: str = "copied"

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary, ready for `json.dumps`."""
        return {**dataclasses.asdict(self), "sealed": self.sealed.to_json()}


Progress = Callable[[str, float], None]


def transcribe(
    video: Path, *, language: str | None, transcriber: str | None, progress: Progress = lambda stage, done: None
) -> Transcript:
    """What is said in a video or sound file, as timed lines. Raises MediaError where nothing is said."""
    hearer = hear.choose(transcriber, language)
    progress("listening", 0.0)
    return hear.transcribe(hearer, _speech(video), language, name=str(video))


def write_subtitles(path: Path, lines: Sequence[Line], language: str, video: Path, shots: Sequence[float] = ()) -> None:
    """Write lines as a subtitle file, cut so that they can be read. Raises OutputError when that fails."""
    cut = _cues(lines, language, video, shots)
    try:
        with atomic_write(path) as draft:
            draft.write_text(subtitles.write(cut, path.suffix.lower(), language), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _cues(lines: Sequence[Line], language: str, video: Path, shots: Sequence[float]) -> list[subtitles.Cue]:
    length = sound_length(video) or max(line.end for line in lines)
    try:
        fps = video_info(video).fps
    except MediaError:  # sound alone
        fps = 25.0
    return subtitles.cues(lines, language, length=length, fps=fps, shots=shots)


def translate(
    video: Path,
    out: Path,
    job: Job,
    *,
    terms: Terms,
    progress: Progress = lambda stage, done: None,
    edit: Callable[[list[Line]], list[Line]] = lambda lines: lines,
) -> Result:
    """Translate a video and write it to `out`, sealed. `edit` may change the translated lines before they are spoken.

    Raises InvalidInput, before any work, for engines, files and languages that are not there; MediaError where the
    video has no speech; Refused where the policy does not allow the words or the picture, or consent is missing.
    """
    return _Translation(video, out, job, terms, progress).run(edit)


@dataclass
class _Translation:
    video: Path
    out: Path
    job: Job
    terms: Terms
    progress: Progress
    notes: list[str] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    hearer: Hearer | None = None
    translator: translators.Translator | None = None
    glossary: Glossary = field(default_factory=Glossary)
    trained: bool = False
    shots: tuple[float, ...] = ()
    burner: Burner | None = None

    def run(self, edit: Callable[[list[Line]], list[Line]]) -> Result:
        job = self.job
        self._check()
        voices = [speak.choose(text, job.target) for text in job.voices]
        self.trained = any(voice.trained for voice in voices)
        spoken_before, source = self._transcript()
        lines = edit(self._translated(spoken_before, source))
        inspection = self._admit(lines)
        self.shots = _shots(self.video) if job.shots is None else job.shots
        self.burner = self._burner(lines, spoken_before, source)
        length = sound_length(self.video) or max(line.end for line in lines)
        sound, spoken = self._voiced(voices, lines, spoken_before, length)
        tracks = self._tracks(lines, spoken_before, source, sound)
        provenance = self._provenance(lines, source, spoken)
        sealed, picture = self._seal(tracks, provenance, inspection)
        inspection.remember(sealed, provenance)
        if job.subtitle_file is not None:
            write_subtitles(job.subtitle_file, lines, job.target, self.video, self.shots)
        return Result(
            sealed=sealed, source=source, target=job.target, engines=self.engines, notes=self.notes, picture=picture,
            lines=_described(spoken_before, lines, spoken),
        )  # fmt: skip

    def _check(self) -> None:
        """What can be known before any work: files, engines, languages, the way out, and consent."""
        job = self.job
        given = [("VIDEO", self.video)] + [
            (flag, path)
            for flag, path in (("--subtitles", job.subtitles), ("--transcript", job.transcript),
                               ("--glossary", job.glossary), ("--font", job.font))
            if path is not None
        ]  # fmt: skip
        check_distinct({"--out": self.out, "--subtitle-file": job.subtitle_file}, given)
        info = video_info(self.video)
        encoded = job.burn or self.marks.label or not copies(self.video)
        check_output(self.out, pixels=info.width * info.height * max(info.frames, 1) if encoded else 0)
        if job.voices:
            self._ask_consent()
        if job.both and job.subtitles is not None and job.transcript is None:
            raise InvalidInput("--both needs the words of the video too: add --transcript FILE, or drop --subtitles")
        if job.source == job.target:
            raise InvalidInput(
                f"--to {job.target}: that is the language of the video; `lichtspiel transcribe` writes it down"
            )
        self.glossary = Glossary.read(job.glossary) if job.glossary else Glossary()
        if job.subtitles is None:
            if job.transcript is None:
                if not has_sound(self.video):
                    raise MediaError(
                        f"{self.video}: has no sound track, so nothing is said; bring words: --subtitles FILE"
                    )
                self.hearer = hear.choose(job.transcriber, job.source)
            if job.source is not None or job.transcript is not None or job.transcriber in (None, "pocketsphinx"):
                self.translator = translators.choose(job.translator, job.source or "en", job.target)

    @property
    def marks(self) -> Marks:
        """The marks of the result: where nothing is generated, credentials alone say what was edited."""
        generated = bool(self.job.voices) or self.job.subtitles is None
        return self.terms.marks if generated else self.terms.marks.of_edits()

    def _ask_consent(self) -> None:
        """A voice in another language puts words into somebody's mouth."""
        if not (self.terms.consent or "").strip():
            verdict = Verdict(
                "needs consent",
                "voice",
                "voice.consent",
                "a synthetic voice says in another language what somebody said",
            )
            self.terms.enforce(verdict, "request", "")

    def _transcript(self) -> tuple[list[Line], str]:
        """The lines of the original, and its language. Without need of them, the user's own translation stands in."""
        job = self.job
        if job.transcript is not None:
            return self._told_apart(subtitles.read(job.transcript, flag="--transcript")), job.source or "en"
        if self.hearer is None:
            assert job.subtitles is not None
            return subtitles.read(job.subtitles), job.source or "und"
        self.progress("listening", 0.0)
        heard = hear.transcribe(self.hearer, _speech(self.video), job.source, name=str(self.video))
        self.engines["transcriber"] = heard.engine
        self.notes += heard.notes
        self._tell_speakers(heard.pitches)
        if job.source is not None and heard.language != job.source:
            self.notes.append(
                f"the video seems to be in {tongues.name_of(heard.language)}, not in {tongues.name_of(job.source)}"
            )
        return heard.lines, heard.language

    def _tell_speakers(self, pitches: Sequence[float]) -> None:
        """Two speakers with one voice, or two voices with one speaker, are told."""
        given = len(self.job.voices)
        if len(pitches) > 1 and given == 1:
            shown = " and ".join(f"{pitch:.0f} Hz" for pitch in pitches)
            self.notes.append(
                f"two speakers are heard ({shown}): give --voice twice, and each has a voice of their own"
            )
        if given > max(len(pitches), 1):
            self.notes.append(f"{max(len(pitches), 1)} speaker is heard, so of {given} voices the first is used alone")

    def _told_apart(self, lines: list[Line]) -> list[Line]:
        """Lines of a file with the speakers that the sound tells, where several voices wait for them."""
        if len(self.job.voices) < 2 or not has_sound(self.video):
            return lines
        numbered, pitches = speakers(lines, _speech(self.video))
        self._tell_speakers(pitches)
        return numbered

    def _translated(self, lines: list[Line], source: str) -> list[Line]:
        job = self.job
        if job.subtitles is not None:
            return self._told_apart(subtitles.read(job.subtitles))
        if self.translator is None:
            self.translator = translators.choose(job.translator, source, job.target)
        self.progress("translating", 0.2)
        done = translators.translate(self.translator, lines, source, job.target, self.glossary)
        self.engines["translator"] = self.translator.name
        self.notes += done.notes
        return done.lines

    def _admit(self, lines: Sequence[Line]) -> Inspection:
        """The policy's word on what will be said. A voice makes it need the consent that `_ask_consent` asked for."""
        text = "\n".join(line.text for line in lines)
        return self.terms.admit(text, [], has_image=False)

    def _voiced(
        self, voices: Sequence[Voice], lines: Sequence[Line], before: Sequence[Line], length: float
    ) -> tuple[SoundTrack | None, list[timing.Spoken]]:
        job = self.job
        if not voices:
            return None, []
        self.engines["voice"] = ", ".join(voice.name for voice in voices)
        shorten = self._shorten if self.translator else lambda text, share: None
        spoken = timing.fit(
            lines, voices, length, shorten=shorten, progress=lambda done: self.progress("speaking", 0.3 + 0.4 * done)
        )
        self.notes += [
            f"line {number}: {one.over:.1f} s too long for its time; a shorter wording would fit"
            for number, one in enumerate(spoken, 1)
            if one.over
        ]
        self.notes.append(LIPS)
        old = read_sound(self.video, rate=mix.RATE, channels=2) if has_sound(self.video) else None
        self.progress("mixing", 0.75)
        samples = mix.dub(old, spoken, before, round(length * mix.RATE), under=job.original)
        title = f"{tongues.name_of(job.target)} (synthetic voice)"
        return SoundTrack(samples=samples, rate=mix.RATE, language=tongues.iso639_2(job.target), title=title), spoken

    def _shorten(self, text: str, share: float) -> str | None:
        assert self.translator is not None
        return self.translator.shorten(text, self.job.target, share)

    def _tracks(self, lines: Sequence[Line], before: Sequence[Line], source: str, sound: SoundTrack | None) -> Tracks:
        """The new sound or the old one, and subtitles: of the translation, and of the original if both are wanted."""
        job = self.job
        given = [(lines, job.target)]
        if job.both:
            given.append((before, source))
        return Tracks(
            copied=Sound(self.video) if sound is None and has_sound(self.video) else None,
            sounds=() if sound is None else (sound,),
            subtitles=() if job.burn else tuple(self._track(some, language) for some, language in given),
        )

    def _track(self, lines: Sequence[Line], language: str) -> Subtitles:
        cut = _cues(lines, language, self.video, self.shots)
        return Subtitles(
            cues=tuple(TextCue(cue.start, cue.end, cue.text) for cue in cut),
            language=tongues.iso639_2(language),
            title=tongues.name_of(language),
        )

    def _provenance(self, lines: Sequence[Line], source: str, spoken: Sequence[timing.Spoken]) -> Provenance:
        """What the seal says: an edited version of the video, and which parts of it were synthesized by what."""
        job = self.job
        synthesized = [f"voice in {tongues.name_of(job.target)}"] if spoken else []
        synthesized += [f"words in {tongues.name_of(job.target)}"] if "translator" in self.engines else []
        model = ", ".join(self.engines.values()) or "the user's subtitles"
        kind: SourceType = "compositeSynthetic" if synthesized else "humanEdits"
        return Provenance(
            model=model[:200],
            version=__version__,
            source_type="compositeWithTrainedAlgorithmicMedia" if self.trained else kind,
            prompt="\n".join(line.text for line in lines),
            negative="",
            parameters={
                "translated": True, "from": source, "to": job.target, "engines": dict(self.engines),
                "original": job.original if spoken else "keep", "burnt_in": job.burn,
            },
            inputs=(Input.of(self.video, "original", parent=True),),
            embed_prompt=self.terms.embed_prompt,
            synthesized=tuple(synthesized),
        )  # fmt: skip

    def _seal(self, tracks: Tracks, provenance: Provenance, inspection: Inspection) -> tuple[Sealed, str]:
        terms = self.terms
        self.progress("sealing", 0.85)
        reason = self._why_encoded()
        if reason is None:
            for _ in inspection.watch(sample_video(self.video, _SAMPLES), 1.0):
                pass
            sealed = seal_copy(
                self.video, provenance, self.out, tracks=tracks, marks=self.marks, timestamp=terms.timestamp
            )
            return sealed, "copied"
        self.notes.append(f"the picture was encoded again: {reason}")
        fps, frames = read_paced(self.video)
        watched = inspection.watch(self._drawn(frames, float(fps)), float(fps))
        sealed = seal(watched, provenance, self.out, fps=fps, marks=self.marks, timestamp=terms.timestamp, sound=tracks)
        return sealed, "encoded"

    def _why_encoded(self) -> str | None:
        if self.job.burn:
            return "subtitles are burnt in"
        if self.marks.label:
            return "the visible label is drawn into it"
        return None if copies(self.video) else "MP4 cannot hold it as it is"

    def _drawn(self, frames: Iterator[Frame], fps: float) -> Iterator[Frame]:
        """Frames with even sides, and with subtitles in them where they are to be burnt in."""
        even = (frame[: frame.shape[0] & ~1, : frame.shape[1] & ~1] for frame in frames)
        return even if self.burner is None else self.burner.burn(even, fps)

    def _burner(self, lines: Sequence[Line], before: Sequence[Line], source: str) -> Burner | None:
        """What draws the subtitles, in both languages where both are wanted; before any sound is made."""
        job = self.job
        if not job.burn:
            return None
        info = video_info(self.video)
        cut = _cues(lines, job.target, self.video, self.shots)
        if job.both:
            cut = subtitles.joined(cut, _cues(before, source, self.video, self.shots))
        return Burner(cut, job.target, info.height & ~1, info.width & ~1, job.font)


def _shots(video: Path) -> tuple[float, ...]:
    """The times at which a new shot begins; none where nothing here finds them."""
    if Shots().missing() is not None:
        return ()
    return tuple(shot.start for shot in Footage(video).shots[1:])


def _speech(video: Path) -> npt.NDArray[np.float32]:
    return read_sound(video, rate=RATE)[:, 0]


def _described(before: Sequence[Line], lines: Sequence[Line], spoken: Sequence[timing.Spoken]) -> list[dict[str, JSON]]:
    """Each line with its times, its text before and after, and how it was spoken."""
    described = list[dict[str, JSON]]()
    for number, line in enumerate(lines):
        entry: dict[str, JSON] = {"start": line.start, "end": line.end, "text": line.text}
        if len(before) == len(lines):
            entry["original"] = before[number].text
        if spoken:
            one = spoken[number]
            entry |= {"text": one.line.text, "spoken": [round(one.start, 3), round(one.end, 3)], "speed": one.speed}
            entry["over"] = round(one.over, 3)
        described.append(entry)
    return described
