"""The verbs of translation: a video in another language, what is said in it, and what this machine can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Force, Json, Weights, free_output, out_option, progress_bar, say, sealed_by
from lichtspiel.cli.flags import under_terms
from lichtspiel.errors import InvalidInput, OutputError, printable

if TYPE_CHECKING:
    from lichtspiel.translate.lines import Line
    from lichtspiel.workflows.terms import Terms

__all__ = ["languages", "transcribe", "translate"]

WORDS, VOICE, SUBTITLES, PICTURE = "Words", "Voice", "Subtitles", "Picture"
"""Headings of options."""


def _option(*names: str, group: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=group)


Video = Annotated[Path, typer.Argument(metavar="VIDEO", help="Video or sound file in which somebody speaks.")]
From = Annotated[
    str | None,
    _option("--from", group=WORDS, metavar="LANGUAGE", help="Language that is spoken. [default: en, or as heard]"),
]
Transcriber = Annotated[
    str | None,
    _option("--transcriber", group=WORDS, metavar="ENGINE", help="What hears the words. [default: pocketsphinx]"),
]

To = Annotated[str, _option("--to", group=WORDS, metavar="LANGUAGE", help="Language of the result, such as es.")]
TranslatorName = Annotated[
    str | None,
    _option("--translator", group=WORDS, metavar="ENGINE", help="What translates. [default: apertium]"),
]
TranscriptFile = Annotated[
    Path | None,
    _option("--transcript", group=WORDS, metavar="FILE", help="Subtitles in the video's language, instead of hearing."),
]
SubtitlesFile = Annotated[
    Path | None,
    _option("--subtitles", group=WORDS, metavar="FILE", help="Your own translation, as SRT, WebVTT or ASS."),
]
GlossaryFile = Annotated[
    Path | None,
    _option("--glossary", group=WORDS, metavar="FILE", help="Lines of 'word = translation', or names to keep."),
]
Voices = Annotated[
    list[str] | None,
    _option(
        "--voice",
        group=VOICE,
        metavar="ENGINE",
        help="What speaks, such as espeak; without it, there are subtitles only. [may be repeated, for speakers]",
    ),
]
OriginalSound = Annotated[
    str | None,
    _option(
        "--original",
        group=VOICE,
        metavar="duck|remove|keep",
        help="What becomes of the old sound while somebody speaks. [default: duck]",
    ),
]
LipsPlug = Annotated[
    str | None,
    _option("--lips", group=VOICE, metavar="PLUG", help="Lips that follow: onnx:FILE or command:FILE of your own."),
]
SpokenLabel = Annotated[
    bool, _option("--spoken-label", group=VOICE, help="The voice also says, in a pause, that it is AI-generated.")
]
Burn = Annotated[bool, _option("--burn", group=SUBTITLES, help="Draw the subtitles into the picture.")]
Both = Annotated[bool, _option("--both", group=SUBTITLES, help="Subtitles in both languages.")]
FontFile = Annotated[
    Path | None,
    _option("--font", group=SUBTITLES, metavar="FILE", help="Font for --burn, if none here has the letters."),
]
PictureText = Annotated[
    str | None,
    _option("--picture-text", group=PICTURE, metavar="tell|replace", help="Text in the picture: list or remake it."),
]
PictureModel = Annotated[
    str | None,
    _option("--picture-model", group=PICTURE, metavar="NAME", help="VACE model for replace. [default: vace-1.3b]"),
]
SubtitleFile = Annotated[
    Path | None,
    _option("--subtitle-file", group=SUBTITLES, metavar="FILE", help="Also write them as .srt, .vtt or .ass."),
]


@under_terms
def translate(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    video: Video,
    to: To,
    out: Annotated[Path | None, out_option("MP4 file. [default: VIDEO.LANGUAGE.mp4, or a free name]")] = None,
    source: From = None,
    transcriber: Transcriber = None,
    translator: TranslatorName = None,
    transcript: TranscriptFile = None,
    subtitles: SubtitlesFile = None,
    glossary: GlossaryFile = None,
    voice: Voices = None,
    original: OriginalSound = None,
    spoken_label: SpokenLabel = False,
    lips: LipsPlug = None,
    burn: Burn = False,
    both: Both = False,
    font: FontFile = None,
    subtitle_file: SubtitleFile = None,
    picture_text: PictureText = None,
    picture_model: PictureModel = None,
    weights: Weights = None,
    force: Force = False,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Put a video into another language.

    What is said is heard, translated, and laid in as subtitles that viewers can turn on, and with --voice also spoken.
    The picture stays as it is, bit by bit. Nothing is sent anywhere unless an engine is an address. A voice needs the
    consent of whoever speaks in the video (--consent).
    """
    from lichtspiel.translate import tongues
    from lichtspiel.workflows.translate import Job
    from lichtspiel.workflows.translate import translate as run

    target = tongues.parse("--to", to)
    _check_subtitle_name(subtitle_file)
    out = free_output(out, f"{video.stem}.{target}.mp4", subtitle_file, force=force)
    job = Job(
        target=target,
        source=None if source is None else tongues.parse("--from", source),
        transcriber=transcriber, translator=translator, voices=tuple(voice or ()), transcript=transcript,
        subtitles=subtitles, glossary=glossary, original=_original(original), spoken_label=spoken_label,
        burn=burn, both=both, font=font,
        lips=lips, subtitle_file=subtitle_file, picture_text=_picture_text(picture_text, picture_model, weights),
        picture_weights=tuple(weights or ()), picture_options={"model": picture_model} if picture_model else {},
    )  # fmt: skip
    _check_effects(job, typed_original=original)
    with progress_bar() as progress:
        result = run(video, out, job, terms=terms, progress=progress)
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
        return
    for note in result.notes:
        say(note)
    print(f"video    {printable(str(result.sealed.path))}")
    if subtitle_file is not None:
        print(f"words    {printable(str(subtitle_file))}")
    for one in result.written:
        becomes = "" if one["translation"] is None else f" = {one['translation']}"
        print(f"text     {one['start']:.1f} to {one['end']:.1f} s: {printable(str(one['text']) + becomes)}")
    engines = ", ".join(f"{part} {name}" for part, name in result.engines.items()) or "your subtitles"
    languages = [tongues.name_of(code) for code in (result.source, result.target) if code != "und"]
    print(f"made of  {_lines(len(result.lines))}, {' to '.join(languages)}: {printable(engines)}")
    print(f"picture  {result.picture}, {result.sealed.frames} frames")
    print(sealed_by(result.sealed.signer, str(result.sealed.path), result.sealed.timestamp))


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _original(typed: str | None) -> Any:
    if typed not in (None, "duck", "remove", "keep"):
        raise InvalidInput(f"--original {typed} is not known; it is duck, remove or keep")
    return typed or "duck"


def _picture_text(typed: str | None, model: str | None, weights: list[Path] | None) -> Any:
    from lichtspiel.cli.common import without_effect

    if typed not in (None, "tell", "replace"):
        raise InvalidInput(f"--picture-text {typed} is not known; it is tell or replace")
    if typed != "replace":
        reason = "no text in the picture is replaced: add --picture-text replace, or drop it"
        without_effect({"--picture-model": model, "--weights": weights or None}, reason)
    return typed


def _check_effects(job: Any, typed_original: str | None) -> None:
    """Refuse flags that others leave without effect."""
    from lichtspiel.cli.common import without_effect

    if not job.voices:
        without_effect(
            {"--original": typed_original, "--lips": job.lips, "--spoken-label": job.spoken_label or None},
            "there is no new voice: add --voice espeak, or drop it",
        )
    if not job.burn:
        without_effect({"--font": job.font}, "nothing is drawn into the picture: add --burn, or drop it")
    if job.subtitles is not None:
        reason = "--subtitles brings the translation; drop one or the other"
        without_effect({"--translator": job.translator, "--glossary": job.glossary}, reason)
    if job.transcript is not None:
        without_effect({"--transcriber": job.transcriber}, "--transcript brings the words; drop one or the other")


def _check_subtitle_name(path: Path | None) -> None:
    from lichtspiel.translate.subtitle_files import FORMATS

    if path is not None and path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: subtitles are {', '.join(FORMATS)}; nearest valid name: {path.with_suffix('.srt')}")


def transcribe(
    video: Video,
    out: Annotated[
        Path | None, out_option(".srt, .vtt or .ass file. [default: print the lines with their times]")
    ] = None,
    source: From = None,
    transcriber: Transcriber = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write down what is said in a video.

    Lines come with their times, cut so that they can be read as subtitles. Without more files, English is understood.
    """
    from lichtspiel.translate import tongues
    from lichtspiel.workflows.outputs import check_free
    from lichtspiel.workflows.translate import transcribe as run
    from lichtspiel.workflows.translate import write_subtitles

    _check_subtitle_name(out)
    check_free([out], force=force)
    language = None if source is None else tongues.parse("--from", source)
    with progress_bar() as progress:
        heard = run(video, language=language, transcriber=transcriber, progress=progress)
    if out is not None:
        write_subtitles(out, heard.lines, heard.language, video)
    if as_json:
        lines = [
            {"start": line.start, "end": line.end, "text": line.text, "speaker": line.speaker} for line in heard.lines
        ]
        described = {"language": heard.language, "engine": heard.engine, "notes": list(heard.notes), "lines": lines}
        print(json.dumps({**described, "path": None if out is None else str(out)}, ensure_ascii=False))
        return
    for note in heard.notes:
        say(note)
    if out is not None:
        print(f"words    {printable(str(out))}")
        print(f"made of  {_lines(len(heard.lines))} in {tongues.name_of(heard.language)}, heard by {heard.engine}")
        return
    for line in heard.lines:
        print(f"{_clock(line)}  {printable(line.text)}")


def _clock(line: Line) -> str:
    minutes, seconds = divmod(line.start, 60)
    return f"{int(minutes):3d}:{seconds:06.3f}"


def languages(as_json: Json = False) -> None:
    """Show what this machine can hear, translate and speak.

    For each part: the engines that are here with their languages, and how to add the others.
    """
    from lichtspiel.translate.inventory import inventory

    found = inventory()
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for part, engines in found.items():
        print(f"{part}")
        for engine in engines:
            state = "here" if engine["here"] else "add "
            print(f"  {engine['name']:<18}{state}  {engine['what']}")
            if engine["add"] and not engine["here"]:
                print(f"{'':<26}{engine['add']}")
        print()
