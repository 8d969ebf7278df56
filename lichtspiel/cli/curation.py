"""The verbs that judge, recommend, choose and measure existing videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import OUTPUT, Force, Json, check_new_file, out_option, progress_bar, secret, without_effect
from lichtspiel.cli.flags import PolicyFile
from lichtspiel.cli.understand import Clip, IndexFile, Ray, Workers, index_path, make_settings, print_unread
from lichtspiel.errors import printable

if TYPE_CHECKING:
    from lichtspiel.understand.curation import Funnel
    from lichtspiel.understand.moderation import Judgment
    from lichtspiel.understand.personalization import Measured
    from lichtspiel.understand.store import Index

__all__ = ["curate", "evaluate", "moderate", "recommend"]


Labels = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Set thresholds by labels: a CSV file with the columns file and explicit."),
]
Evidence = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Write a contact sheet of the evidence for each video.", rich_help_panel=OUTPUT
    ),
]


def moderate(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    places: Annotated[list[Path], typer.Argument(metavar="PATH", help="Videos, pictures, or folders of them.")],
    policy: PolicyFile = None,
    thresholds: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of thresholds, as --calibrate writes them.")
    ] = None,
    calibrate: Labels = None,
    decide: Annotated[
        str | None, typer.Option(metavar="allowed|refused", help="Decide what needs review, as a person.")
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record; goes with --decide.")] = "",
    queue: Annotated[bool, typer.Option("--queue", help="Show only what needs review.")] = False,
    sheets: Evidence = None,
    out: Annotated[Path | None, out_option("File for the thresholds of --calibrate.")] = None,
    to: IndexFile = None,
    workers: Workers = 1,
    force: Force = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Judge existing videos by the policy.

    Looks at pictures, speech and writing, and says when and why something is refused or needs review. What could not be
    looked at needs review. The exit code is 3 when a video is refused, 4 when one needs review, and 0 otherwise.
    """
    from lichtspiel.policy.prompts import load
    from lichtspiel.understand.ingest import build, files_of
    from lichtspiel.understand.moderation import LOOKING, Thresholds, judge
    from lichtspiel.understand.moderation import decide as record
    from lichtspiel.understand.store import Index
    from lichtspiel.workflows.moderate import write_sheets

    if calibrate is None:
        without_effect({"--out": out}, "it is the file for the thresholds of --calibrate")
    if decide is None:
        without_effect({"--note": note or None}, "it explains --decide")
    if out is not None and calibrate is not None:
        check_new_file("--out", out, [("--calibrate", calibrate)], force=force)
    index = Index(index_path(to), create=True)
    try:
        with progress_bar() as progress:
            settings = make_settings(",".join(LOOKING), "transnetv2", None)
            build(places, index, settings, workers=workers, progress=progress)
        files = [str(path) for path in files_of(places)]
        if calibrate is not None:
            _calibrate(index, files, calibrate, out, as_json)
            return
        limits = Thresholds.read(thresholds) if thresholds else Thresholds()
        own = load(policy) if policy else None
        judgments = [judge(index, path, limits, own) for path in files]
        if decide is not None:
            record(index, judgments, decide, note)
            judgments = [judge(index, path, limits, own) for path in files]
        found = {one.decision for one in judgments}
        if queue:
            judgments = [one for one in judgments if one.decision == "needs review"]
        if sheets is not None:
            write_sheets(index, judgments, sheets)
    finally:
        index.close()
    _print_judgments(judgments, as_json)
    raise typer.Exit(3 if "refused" in found else 4 if "needs review" in found else 0)


def _print_judgments(judgments: list[Judgment], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"videos": [one.to_json() for one in judgments]}, ensure_ascii=False, indent=2))
        return
    for one in judgments:
        by = " (decided by a person)" if one.reviewed and one.decision == one.reviewed else ""
        print(printable(f"{one.decision:<13}{one.path}{by}"))
        for reason in one.objections:
            times = f"{reason.start:.1f}-{reason.end:.1f} s"
            print(printable(f"{'':13}{times:<14}{reason.category}, {reason.source}: {reason.detail} ({reason.rule})"))


def _calibrate(index: Index, files: list[str], labels: Path, out: Path | None, as_json: bool) -> None:
    from dataclasses import replace

    from lichtspiel.errors import InvalidInput
    from lichtspiel.policy.rules import REVIEW
    from lichtspiel.understand.moderation import Thresholds, calibrate, read_labels

    truth = read_labels(labels)
    rows: list[tuple[float, bool]] = []
    for path in files:
        if Path(path).name not in truth:
            continue
        found = index.rows("SELECT score FROM findings JOIN paths USING (digest) WHERE path = ? AND kind = 'explicit' "
                           "ORDER BY score DESC", path)  # fmt: skip
        if found:
            rows.append((found[min(1, len(found) - 1)][0], truth[Path(path).name]))
    if not rows:
        raise InvalidInput(f"{labels}: names none of these files; give their names in the column file")
    curve = calibrate([score for score, _ in rows], [label for _, label in rows])
    limits = replace(Thresholds(), explicit_refused=curve.best, explicit_review=min(curve.best, REVIEW))
    if out is not None:
        limits.write(out)
    if as_json:
        print(json.dumps(curve.to_json(), indent=2))
        return
    print(f"{len(rows)} files, {curve.positives} of them explicit\nthreshold  precision  recall")
    for threshold, precision, recall in curve.points:
        print(f"{threshold:9.3f}  {precision:9.3f}  {recall:6.3f}")
    print(f"best by F1: {curve.best:.3f} (precision {curve.precision:.3f}, recall {curve.recall:.3f})")


def recommend(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    liked: Annotated[list[str] | None, typer.Option(metavar="VIDEO", help="Liked. [may be repeated]")] = None,
    disliked: Annotated[list[str] | None, typer.Option(metavar="VIDEO", help="Disliked. [may be repeated]")] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CSV file with the columns video, event (like, play, skip, dislike), viewer."
        ),
    ] = None,
    viewer: Annotated[str | None, typer.Option(metavar="NAME", help="Whose events count. [default: all]")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How many videos, the best first.")] = 10,
    diverse: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="How much a video loses for being like a better one.")
    ] = 0.25,
    measure: Annotated[
        bool, typer.Option("--measure", help="Tell how well --events foretell later likes, beside popularity.")
    ] = False,
    within: IndexFile = None,
    as_json: Json = False,
) -> None:
    """Recommend indexed videos to one viewer.

    Learns from likes, plays and skips in milliseconds, and says which video speaks for each. Nothing leaves this
    computer.
    """
    from lichtspiel.understand.personalization import REWARDS, Library, read_events
    from lichtspiel.understand.personalization import measure as evaluate_log
    from lichtspiel.understand.personalization import recommend as rank
    from lichtspiel.understand.store import Index

    if events is None:
        without_effect({"--viewer": viewer, "--measure": measure or None}, "there are no events: add --events FILE")
    if measure:
        ignored: dict[str, object] = {"--liked": liked or None, "--disliked": disliked or None, "--viewer": viewer}
        without_effect(ignored, "--measure looks at all viewers of --events")
    index = Index(index_path(within))
    try:
        library = Library.of(index)
    finally:
        index.close()
    if measure and events is not None:
        _print_measured(evaluate_log(library, read_events(events), limit, diverse=diverse), limit, as_json)
        return
    rewards: dict[int, float] = {}
    for event in read_events(events) if events else ():
        if viewer is None or event.viewer == viewer:
            number = library.number(event.video)
            rewards[number] = rewards.get(number, 0.0) + REWARDS[event.kind]
    rewards |= {library.number(video): 1.0 for video in liked or ()}
    rewards |= {library.number(video): -1.0 for video in disliked or ()}
    found = rank(library, rewards, limit, diverse=diverse)
    if as_json:
        print(json.dumps({"videos": [one.to_json() for one in found]}, ensure_ascii=False, indent=2))
        return
    for one in found:
        because = f"  because of {Path(one.because).name}" if one.because else ""
        print(printable(f"{one.score:7.3f}  {one.path}{because}{f'  {one.caption}' if one.caption else ''}"))


def _print_measured(found: Measured, limit: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps(vars(found)))
        return
    print(f"nDCG@{limit} of {found.viewers} viewers, whose last fifth of events was hidden:")
    for name, value in (("ours", found.ours), ("most popular", found.popularity), ("random", found.random)):
        print(f"  {name:<13}{value:.3f}")


def curate(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    places: Annotated[list[Path], typer.Argument(metavar="PATH", help="Videos, or folders of them.")],
    out: Annotated[Path, out_option("Folder for the data set.")],
    shortest: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Drop shorter shots.")] = 1.0,
    longest: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Cut longer shots here.")] = 10.0,
    least_motion: Annotated[
        float, typer.Option(min=0, metavar="WIDTHS", help="Drop shots with less motion, in widths per second.")
    ] = 0.005,
    least_sharpness: Annotated[float, typer.Option(min=0, metavar="NUMBER", help="Drop blurred shots.")] = 20.0,
    most_writing: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Drop shots with more text, as a share of the picture.")
    ] = 0.1,
    no_faces: Annotated[bool, typer.Option("--no-faces", help="Drop shots with faces.")] = False,
    no_ai: Annotated[bool, typer.Option("--no-ai", help="Drop what is marked as made by AI.")] = False,
    captioned: Annotated[bool, typer.Option("--captioned", help="Drop shots without a caption of their own.")] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Keep duplicates.")] = False,
    caption_url: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint that captions what has none.")
    ] = None,
    caption_model: Annotated[str | None, typer.Option(metavar="NAME", help="Its model.")] = None,
    caption_key: Annotated[Path | None, typer.Option(metavar="FILE", help="File with its key.")] = None,
    shards: Annotated[bool, typer.Option("--shards", help="Also write tar files for webdataset.")] = False,
    to: IndexFile = None,
    workers: Workers = 1,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Make a data set of videos for fine-tuning.

    Cuts them into shots, drops what is bad or there twice, and writes clips with captions, how many shots each filter
    dropped, and sheets of those.
    """
    from lichtspiel.errors import InvalidInput
    from lichtspiel.understand.captioning import Endpoint, captioner
    from lichtspiel.understand.curation import Rules, candidates, choose, export, write_shards
    from lichtspiel.understand.ingest import build, files_of
    from lichtspiel.understand.store import Index

    if caption_url is None:
        without_effect({"--caption-model": caption_model, "--caption-key": caption_key}, "add --caption-url URL")
    elif caption_model is None:
        raise InvalidInput("--caption-url needs --caption-model NAME, which says which of its models sees pictures")
    rules = Rules(
        shortest=shortest, longest=longest, least_motion=least_motion, least_sharpness=least_sharpness,
        most_writing=most_writing, faces=not no_faces, made_by_ai=not no_ai, captioned=captioned, duplicates=duplicates,
    )  # fmt: skip
    endpoint = None
    if caption_url and caption_model:
        endpoint = Endpoint(url=caption_url, model=caption_model, key=secret(caption_key))
    index = Index(to or out / "index.sqlite", create=True)
    try:
        with progress_bar() as progress:
            work = build(places, index, make_settings(None, "transnetv2", None), workers=workers, ray=ray,
                         progress=progress)  # fmt: skip
            chosen, funnel = choose(candidates(index, {str(path) for path in files_of(places)}), rules)
            rows = export(chosen, funnel, out, rules, captioner(index, endpoint), progress)
        tars = write_shards(out, rows) if shards else []
    finally:
        index.close()
    summary: dict[str, Any] = {
        "folder": str(out), "shots": funnel.total, "dropped": funnel.dropped, "kept": funnel.kept,
        "shards": list(map(str, tars)), "missed": work.missed, "failures": work.failures,
    }  # fmt: skip
    if as_json:
        print(json.dumps(summary, ensure_ascii=False, indent=2))
        return
    _print_funnel(out, funnel, bare=sum(not row["text"] for row in rows))
    for name, reason in {**work.missed, **work.failures}.items():
        print(printable(f"missed   {name}: {reason}"))


def _print_funnel(out: Path, funnel: Funnel, bare: int) -> None:
    """Print how many shots each rule dropped; `bare` clips have no caption."""
    print(f"{funnel.total:7} shots")
    for rule, _, dropped, share in funnel.rows():
        print(f"{-dropped:7} {rule} ({share:.1%} of those left)")
    print(printable(f"{funnel.kept:7} clips in {out}; dropped ones on sheets in {out / 'dropped'}"))
    if bare:
        print(
            f"{bare:7} of them without a caption, which tuning needs: write a .txt, add --caption-url, or --captioned"
        )


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of videos, or one.")],
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Their prompts: one a line by file name, or JSON lines.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Videos to compute a Fréchet distance to.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an HTML page with the table and the videos.",
                                  rich_help_panel=OUTPUT),
    ] = None,
    clip: Clip = None,
    force: Force = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure videos in the dimensions of VBench.

    Only what can be computed without a download; where a network of VBench is replaced by another, the table says so,
    and its numbers compare videos that were measured here.
    """
    from lichtspiel.understand.evaluation import evaluate as run
    from lichtspiel.understand.evaluation import report as write

    if report is not None:
        inputs = {"the videos": folder, "--prompts": prompts, "--against": against}
        check_new_file("--report", report, [(name, path) for name, path in inputs.items() if path], force=force)
    with progress_bar() as progress:
        found = run(folder, prompts, against, None if clip is None else str(clip), progress)
    if report is not None:
        write(found, report)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=2))
        return
    for name, value in found.means.items():
        print(f"{name:<24}{value:7.4f}  {found.methods[name]}")
    for name, reason in found.missed.items():
        print(f"{name:<24}      –  {reason}")
    if found.distance is not None:
        print(f"{'Fréchet distance':<24}{found.distance:7.4f}  EfficientNet-Lite0; no FVD")
    print_unread(found.failures)
