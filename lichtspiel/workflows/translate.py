"""A video in another language, from the file to the sealed file: hear, translate, speak, lay in.

The picture is copied bit by bit unless words are drawn into it. A synthetic voice is generated content, so the seal
says what was synthesized, and whoever speaks in the video must have agreed. This module asks the policy and the record;
the engines are in `translate`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lichtspiel import __version__
from lichtspiel.errors import InvalidInput, MediaError, OutputError
from lichtspiel.media.sound import has_sound, read_sound, sound_length
from lichtspiel.media.video import read_paced, sample_video, video_info
from lichtspiel.seal import Input, Provenance, Sealed, Sound, check_output, seal
from lichtspiel.seal.credentials import JSON, SourceType
from lichtspiel.seal.export import copies, seal_copy
from lichtspiel.seal.marks import Marks
from lichtspiel.seal.tracks import Cue as TextCue
from lichtspiel.seal.tracks import SoundTrack, Subtitles, Tracks
from lichtspiel.storage import atomic_write
from lichtspiel.translate import hear, mix, speak, subtitle_files, subtitles, timing, tongues
from lichtspiel.translate.announce import WORDS, announce
from lichtspiel.translate.burn import Burner
from lichtspiel.translate.hear import Transcript
from lichtspiel.translate.lines import Line
from lichtspiel.translate.protocols import Voice
from lichtspiel.understand.footage import Footage
from lichtspiel.understand.shots import Shots
from lichtspiel.workflows.clips import plain_marks
from lichtspiel.workflows.lips import RATE as LIPS_RATE
from lichtspiel.workflows.lips import Lips
from lichtspiel.workflows.lips import choose as choose_lips
from lichtspiel.workflows.outputs import check_distinct
from lichtspiel.workflows.terms import Inspection, Terms
from lichtspiel.workflows.translate_words import Draft, Job, Progress, Words, admit_words, draft, speech

if TYPE_CHECKING:
    from lichtspiel.frames import Frame
    from lichtspiel.translate.glossary import Glossary
    from lichtspiel.workflows.translate_picture import Written

__all__ = ["Draft", "Job", "Result", "draft", "transcribe", "translate", "write_subtitles"]

_SAMPLES = 16
"""How many frames of a video whose picture is copied the policy looks at."""

LIPS = "the lips in the picture do not follow the new voice"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was made: the sealed video, its languages and engines, each line with what became of it, the label that the
    voice speaks (its text and its times in seconds), and notes."""

    sealed: Sealed
    source: str
    target: str
    engines: dict[str, str]
    lines: list[dict[str, JSON]]
    notes: list[str] = field(default_factory=list)
    picture: str = "copied"
    written: list[dict[str, JSON]] = field(default_factory=list)
    spoken_label: dict[str, JSON] | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as a plain dictionary, ready for `json.dumps`."""
        return {**dataclasses.asdict(self), "sealed": self.sealed.to_json()}


def transcribe(
    video: Path, *, language: str | None, transcriber: str | None, progress: Progress = lambda stage, done: None
) -> Transcript:
    """What is said in a video or sound file, as timed lines. Raises MediaError where nothing is said."""
    hearer = hear.choose(transcriber, language)
    progress("listening", 0.0)
    if not has_sound(video):
        raise MediaError(f"{video}: has no sound track, so nothing is said; choose one in which people speak")
    heard = hear.transcribe(hearer, speech(video), language, name=str(video))
    if len(heard.pitches) < 2:
        return heard
    return dataclasses.replace(heard, notes=(*heard.notes, f"two speakers are heard ({_shown(heard.pitches)})"))


def _shown(pitches: Sequence[float]) -> str:
    """The pitches of speakers, for notes."""
    return " and ".join(f"{pitch:.0f} Hz" for pitch in pitches)


def write_subtitles(path: Path, lines: Sequence[Line], language: str, video: Path, shots: Sequence[float] = ()) -> None:
    """Write lines as a subtitle file, cut so that they can be read. Raises OutputError when that fails."""
    cut = _cues(lines, language, video, shots)
    try:
        with atomic_write(path) as draft:
            draft.write_text(subtitle_files.write(cut, path.suffix.lower(), language), encoding="utf-8")
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
    drafted: Draft | None = None,
    name: str | None = None,
    progress: Progress = lambda stage, done: None,
) -> Result:
    """Translate a video and write it to `out`, sealed; the record knows it as `name`, if it does not stay there.

    A draft (`draft`) takes the place of hearing and translating; whoever made it may have changed its lines since.
    Raises InvalidInput, before any work, for engines, files and languages that are not there; MediaError where the
    video has no speech; Refused where the policy does not allow the words or the picture, or consent is missing.
    """
    return _Translation(video, out, job, terms, progress).run(drafted, name)


@dataclass
class _Translation:
    video: Path
    out: Path
    job: Job
    terms: Terms
    progress: Progress
    notes: list[str] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)
    trained: bool = False
    shots: tuple[float, ...] = ()
    burner: Burner | None = None
    written: list[Written] = field(default_factory=list)
    lips: Lips | None = None
    spoken: Sequence[timing.Spoken] = ()
    label: timing.Spoken | None = None
    remade: bool = False
    folder: Path = field(init=False)
    provenance: Provenance = field(init=False)

    def run(self, drafted: Draft | None, name: str | None) -> Result:
        job = self.job
        words = Words(self.video, job, self.progress)
        self._check()
        if drafted is None:
            words.check()
        voices = [speak.choose(text, job.target) for text in job.voices]
        self.trained = any(voice.trained for voice in voices) or job.lips is not None
        self.lips = None if job.lips is None else choose_lips(job.lips)
        found = drafted or words.draft()
        self.engines, self.notes = dict(found.engines), list(found.notes)
        inspection = admit_words(found.lines, self.terms, voiced=bool(voices))
        with tempfile.TemporaryDirectory(prefix="lichtspiel-picture-") as folder:
            self.folder = Path(folder)
            if job.picture_text is not None:
                source = found.source if job.source is None and found.source != "und" else job.source
                self._picture(dataclasses.replace(job, source=source), words.glossary, found.written)
            made = self._made(found, voices, words if drafted is None else None, inspection)
        inspection.remember(made.sealed, self.provenance, name)
        if job.subtitle_file is not None:
            write_subtitles(job.subtitle_file, found.lines, job.target, made.sealed.path, self.shots)
        return made

    def _picture(self, job: Job, glossary: Glossary, known: Sequence[Written] | None) -> None:
        """Read the text in the picture, unless it is `known`, and replace what has a translation in a copy of the video
        that takes its place. Where the picture is encoded again after that, the marks come with the last encoding."""
        from lichtspiel.workflows.translate_picture import read_picture, replaced

        if known is None:
            self.progress("reading the picture", 0.25)
            self.written, notes = read_picture(self.video, job, glossary)
            self.notes += notes
        else:
            self.written = [*known]
        texts = [one for one in self.written if one.translation]
        if texts and job.picture_text == "replace":
            self.remade = True
            terms = self.terms
            if self.lips is not None or job.burn or self.marks.label:
                terms = dataclasses.replace(terms, marks=plain_marks(terms.marks))
            self.video = replaced(
                self.video, texts, job, terms, self.folder, lambda stage, done: self.progress(stage, 0.25 + 0.05 * done)
            )

    def _made(self, found: Draft, voices: Sequence[Voice], words: Words | None, inspection: Inspection) -> Result:
        """From the words to the sealed video. `words` is what translated them, if it can say a line in fewer."""
        job = self.job
        before, lines, source = found.before, found.lines, found.source
        self._tell_speakers(found.pitches)
        self.shots = _shots(self.video) if job.shots is None else job.shots
        self.burner = self._burner(lines, before, source)
        length = sound_length(self.video) or max(line.end for line in lines)
        shorten = (lambda text, share: None) if words is None else words.shorten
        sound, spoken = self._voiced(voices, found, length, shorten)
        self.spoken = spoken
        tracks = self._tracks(lines, before, source, sound)
        self.provenance = self._provenance(lines, source, spoken)
        sealed, picture = self._seal(tracks, self.provenance, inspection)
        if self.remade:
            picture = "edited"
        return Result(
            sealed=sealed, source=source, target=job.target, engines=self.engines, notes=self.notes, picture=picture,
            lines=_described(before, lines, spoken), written=[one.to_json() for one in self.written],
            spoken_label=_heard(self.label),
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
        encoded = job.burn or job.lips is not None or self.marks.label or not copies(self.video)
        check_output(self.out, pixels=info.width * info.height * max(info.frames, 1) if encoded else 0)
        if job.lips is not None and not job.voices:
            raise InvalidInput("--lips follow a new voice: add --voice, or drop it")
        if job.spoken_label and not job.voices:
            raise InvalidInput("--spoken-label is said by a new voice: add --voice, or drop it")
        if job.spoken_label and job.target not in WORDS:
            name = tongues.name_of(job.target)
            raise InvalidInput(f"--spoken-label: has no words in {name}; show the label instead, with --label")
        if job.voices:  # before any work
            admit_words([], self.terms, voiced=True)

    @property
    def marks(self) -> Marks:
        """The marks of the result: where nothing is generated, credentials alone say what was edited."""
        generated = bool(self.job.voices) or self.job.subtitles is None or self.remade
        return self.terms.marks if generated else self.terms.marks.of_edits()

    def _tell_speakers(self, pitches: Sequence[float] | None) -> None:
        """Two speakers with one voice, or two voices with one speaker, are told."""
        if pitches is None:
            return
        given = len(self.job.voices)
        if len(pitches) > 1 and given == 1:
            self.notes.append(
                f"two speakers are heard ({_shown(pitches)}): give --voice twice, and each has a voice of their own"
            )
        if given > max(len(pitches), 1):
            self.notes.append(f"{max(len(pitches), 1)} speaker is heard, so of {given} voices the first is used alone")

    def _voiced(
        self, voices: Sequence[Voice], words: Draft, length: float, shorten: Callable[[str, float], str | None]
    ) -> tuple[SoundTrack | None, list[timing.Spoken]]:
        job = self.job
        if not voices:
            return None, []
        self.engines["voice"] = ", ".join(voice.name for voice in voices)
        spoken = timing.fit(
            words.lines,
            voices,
            length,
            shorten=shorten,
            progress=lambda done: self.progress("speaking", 0.3 + 0.4 * done),
        )
        self.notes += [
            f"line {number}: {one.over:.1f} s too long for its time; a shorter wording would fit"
            for number, one in enumerate(spoken, 1)
            if one.over
        ]
        if self.lips is None:
            self.notes.append(LIPS)
        else:
            self.engines["lips"] = self.lips.name
        old = read_sound(self.video, rate=mix.RATE, channels=2) if has_sound(self.video) else None
        self.label = self._announced(voices[0], spoken, words.before, length)
        self.progress("mixing", 0.75)
        every = spoken if self.label is None else [*spoken, self.label]
        samples = mix.dub(old, every, words.before, round(length * mix.RATE), under=job.original)
        title = f"{tongues.name_of(job.target)} (synthetic voice)"
        return SoundTrack(samples=samples, rate=mix.RATE, language=tongues.iso639_2(job.target), title=title), spoken

    def _announced(
        self, voice: Voice, spoken: Sequence[timing.Spoken], before: Sequence[Line], length: float
    ) -> timing.Spoken | None:
        """The label that is heard, where it is asked for or where the marks show one. Raises InvalidInput where it is
        asked for and no pause holds it."""
        if not self.job.spoken_label and not self.marks.label:
            return None
        busy = [(one.start, one.end) for one in spoken]
        busy += [] if self.job.original == "remove" else [(line.start, line.end) for line in before]
        label = announce(voice, self.job.target, busy, length)
        if label is not None:
            self.notes.append(f"at {label.start:.1f} s the voice says: {label.line.text}")
        elif self.job.spoken_label:
            raise InvalidInput("--spoken-label: no pause is long enough for it; show the label instead, with --label")
        else:
            reason = "no pause is long enough" if self.job.target in WORDS else "it has no words in this language"
            self.notes.append(f"the label is shown, not heard: {reason}")
        return label

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
            cues=tuple(TextCue(one.start, one.end, subtitle_files.directed(one.text, language)) for one in cut),
            language=tongues.iso639_2(language),
            title=tongues.name_of(language),
        )

    def _provenance(self, lines: Sequence[Line], source: str, spoken: Sequence[timing.Spoken]) -> Provenance:
        """What the seal says: an edited version of the video, and which parts of it were synthesized by what."""
        job = self.job
        synthesized = [f"voice in {tongues.name_of(job.target)}"] if spoken else []
        synthesized += ["lips"] if self.lips is not None else []
        synthesized += ["text in the picture"] if self.remade else []
        synthesized += [f"words in {tongues.name_of(job.target)}"] if "translator" in self.engines else []
        model = ", ".join(self.engines.values()) or "the user's subtitles"
        kind: SourceType = "compositeSynthetic" if synthesized else "humanEdits"
        return Provenance(
            model=model[:200],
            version=__version__,
            source_type="compositeWithTrainedAlgorithmicMedia" if self.trained or self.remade else kind,
            prompt="\n".join(line.text for line in lines),
            negative="",
            parameters={
                "translated": True, "from": source, "to": job.target, "engines": dict(self.engines),
                "original": job.original if spoken else "keep", "burnt_in": job.burn,
                "spoken_label": _heard(self.label),
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
        if self.lips is not None:
            return "the lips follow the new voice"
        if self.job.burn:
            return "subtitles are burnt in"
        if self.marks.label:
            return "the visible label is drawn into it"
        return None if copies(self.video) else "MP4 cannot hold it as it is"

    def _drawn(self, frames: Iterator[Frame], fps: float) -> Iterator[Frame]:
        """Frames with even sides, and with subtitles in them where they are to be burnt in."""
        if self.lips is not None:
            length = max(one.end for one in self.spoken)
            voice = mix.laid(self.spoken, round(length * mix.RATE))
            voice = mix.resampled(voice, mix.RATE, LIPS_RATE)
            spans = [(one.start, one.end) for one in self.spoken]
            frames = self.lips.follow(self.video, frames, fps, voice, spans, self.folder)
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


def _heard(label: timing.Spoken | None) -> dict[str, JSON] | None:
    """The label that is heard: what it says and when."""
    if label is None:
        return None
    return {"text": label.line.text, "start": round(label.start, 3), "end": round(label.end, 3)}


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
