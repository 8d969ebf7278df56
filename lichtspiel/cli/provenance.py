"""The verbs of provenance: what a video proves, marking what others made, the policy and the keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import OUTPUT, Force, Json, free_output, out_option, progress_bar, say, sealed_by
from lichtspiel.cli.flags import PolicyFile, under_terms
from lichtspiel.cli.record import RecordDatabase, record_at
from lichtspiel.errors import InvalidInput, LichtspielError, OutputError, printable

if TYPE_CHECKING:
    from lichtspiel.seal import Sealed
    from lichtspiel.seal.record import Store
    from lichtspiel.seal.verify import Proof, Report
    from lichtspiel.workflows.terms import Terms

__all__ = [
    "check_policy",
    "import_certificate",
    "list_refusals",
    "make_identity",
    "seal",
    "show_identity",
    "show_policy",
    "verify",
]


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Videos, pictures, or folders of them.")],
    require: Annotated[
        str | None,
        typer.Option(
            metavar="trusted|sealed|watermark",
            help="What each file has to prove. [default: watermark]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    database: RecordDatabase = None,
    as_json: Json = False,
) -> None:
    """Check where videos and pictures come from.

    Reads signature, watermark and labels, and says who sealed a file, how it was made and whether it was changed. The
    exit code is 0 when every file proves what is required, 4 when one does not, 2 when one cannot be read, and 5 when
    one was changed after it was signed.
    """
    from lichtspiel.seal import exit_code
    from lichtspiel.seal.verify import PROOFS
    from lichtspiel.seal.verify import verify as run

    wanted = next((proof for proof in PROOFS if proof == (require or "watermark")), None)
    if wanted is None:
        raise InvalidInput(f"--require {require} is not known; choose one of {', '.join(PROOFS)}")
    with record_at(database) as store:
        if len(files) == 1 and not files[0].is_dir():
            report = run(files[0], store=store)
            print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else _card(report))
            raise typer.Exit(exit_code(report, wanted))
        raise typer.Exit(_verify_many(files, wanted, store, as_json))


def _card(report: Report) -> str:
    """A report for people, without the options that every video has."""
    from lichtspiel.request import OPTIONS, default_of
    from lichtspiel.seal import card

    return card(report, usual={name: default_of(name) for name in OPTIONS})


def _verify_many(files: list[Path], wanted: Proof, store: Store, as_json: bool) -> int:
    """Verify files and the contents of folders one by one; returns the exit code."""
    from lichtspiel.seal import exit_code
    from lichtspiel.seal.verify import verify as run

    results, codes = list[dict[str, Any]](), list[int]()
    for path in _expanded(files):
        try:
            report = run(path, store=store)
            shown, result, code = _card(report), report.to_json(), exit_code(report, wanted)
        except LichtspielError as error:
            shown = f"{printable(path.name)}: CANNOT BE READ\n  {printable(str(error))}"
            result, code = {"path": str(path), "error": str(error)}, error.exit_code
        results.append({**result, "exit_code": code})
        codes.append(code)
        if not as_json:
            print(f"{shown}\n")
    unread = len(codes) - codes.count(0) - codes.count(4) - codes.count(5)
    if as_json:
        print(json.dumps({"files": results}, ensure_ascii=False, indent=2))
    else:
        print(f"{len(codes)} files: {codes.count(0)} proven ({wanted}), {codes.count(4)} not, ", end="")
        print(f"{codes.count(5)} tampered with, {unread} cannot be read")
    return next((code for code in (5, 2, 1, 4) if code in codes), 0)


def _expanded(paths: list[Path]) -> Iterator[Path]:
    """Files as they are, and the videos and pictures of folders."""
    from lichtspiel.media.media import media_files

    for path in paths:
        yield from media_files(path) if path.is_dir() else [path]


@under_terms
def seal(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Videos or pictures that another tool generated, or folders of them."),
    ],
    made_with: Annotated[str, typer.Option(metavar="NAME", help='Tool that made it, such as "Wan2.1 in ComfyUI".')],
    out: Annotated[
        Path | None,
        out_option(
            "MP4 or PNG file; for several, a folder. [default: sealed.mp4 or .png; for several, NAME-sealed.mp4]"
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Its prompt, if there was one, for the record.")] = "",
    force: Force = False,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Mark and sign videos or pictures that another tool made.

    They get the same marks as Lichtspiel's own. They are encoded again, as MP4 or PNG; sound is kept. Of several files,
    one that cannot be sealed does not stop the others.
    """
    from lichtspiel.media.picture import is_picture
    from lichtspiel.workflows.reseal import reseal

    if len(files) == 1 and not files[0].is_dir():
        file = files[0]
        out = free_output(out, "sealed.png" if is_picture(file) else "sealed.mp4", force=force)
        with progress_bar() as progress:
            sealed = reseal(file, out, made_with=made_with, prompt=prompt, terms=terms, progress=progress, note=say)
        print(json.dumps(sealed.to_json(), ensure_ascii=False) if as_json else _shown(sealed))
        return
    results, codes = list[dict[str, Any]](), list[int]()
    for file, target in sealed_names([*_expanded(files)], out, force=force):
        try:
            with progress_bar() as progress:
                sealed = reseal(
                    file, target(), made_with=made_with, prompt=prompt, terms=terms, progress=progress, note=say
                )
            shown, result, code = _shown(sealed), sealed.to_json(), 0
        except LichtspielError as error:
            shown = f"{printable(str(file))}: NOT SEALED\n  {printable(str(error))}"
            result, code = {"error": str(error)}, error.exit_code
        results.append({"file": str(file), **result, "exit_code": code})
        codes.append(code)
        if not as_json:
            print(f"{shown}\n")
    if as_json:
        print(json.dumps({"files": results}, ensure_ascii=False, indent=2))
    else:
        print(f"{len(codes)} files: {codes.count(0)} sealed, {len(codes) - codes.count(0)} not")
    raise typer.Exit(next((code for code in (2, 3, 1) if code in codes), 0))


def sealed_names(files: list[Path], out: Path | None, *, force: bool) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """Each file with a function that says where it goes when its turn comes: NAME-sealed.mp4 or .png, free or replaced.
    Raises OutputError if `out` is no folder, and the function does if a result would replace one of the files."""
    from lichtspiel.media.picture import is_picture
    from lichtspiel.workflows.outputs import check_distinct, free_name

    folder = out or Path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: is no folder for several files: {error.strerror}; choose another") from error
    for file in files:

        def target(file: Path = file) -> Path:
            path = folder / f"{file.stem}-sealed{'.png' if is_picture(file) else '.mp4'}"
            path = path if force else free_name(path)
            check_distinct({"--out": path}, [("FILE", other) for other in files])
            return path

        yield file, target


def _shown(sealed: Sealed) -> str:
    rate = f", {sealed.frames} frames at {sealed.fps:g} a second" if sealed.fps else ""
    return "\n".join((
        f"{'video' if sealed.fps else 'picture':<9}{printable(str(sealed.path))}",
        f"size     {sealed.width}x{sealed.height}{rate}",
        sealed_by(sealed.signer, str(sealed.path), sealed.timestamp),
    ))  # fmt: skip


def show_policy(policy: PolicyFile = None, as_json: Json = False) -> None:
    """Show the rules and what can judge pictures here."""
    from lichtspiel.policy import describe_policy
    from lichtspiel.policy.prompts import load

    description = describe_policy(load(policy) if policy else None)
    if as_json:
        print(json.dumps(description, ensure_ascii=False, indent=2))
        return
    print(f"policy   version {description['version']}\n")
    for rule in description["rules"]:
        print(f"{rule['name']:<20}{rule['decision']:<15}{rule['category']:<16}a prompt that {rule['says']}")
    terms = ", ".join(f"{language} {count}" for language, count in description["terms"].items())
    looking = ", ".join(
        f"{what} {'yes' if available else 'no'}" for what, available in description["looks at pictures"].items()
    )
    print(f"\nterms    {terms}")
    print(f"limits   {', '.join(f'{name} {value:g}' for name, value in description['thresholds'].items())}")
    print(f"looks at pictures: {looking}")


def check_policy(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Prompt to judge, in quotes.")],
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Picture that would come with it.")] = None,
    negative: Annotated[str, typer.Option(metavar="TEXT", help="Negative prompt that would come with it.")] = "",
    policy: PolicyFile = None,
    as_json: Json = False,
) -> None:
    """Judge a prompt without generating anything.

    The exit code is 3 if the policy refuses it.
    """
    from lichtspiel.media.picture import load_image
    from lichtspiel.policy import judge_image, judge_prompt, strictest
    from lichtspiel.policy.prompts import load

    pictures = [judge_image(load_image(image))] if image else []
    own = load(policy) if policy else None
    verdict = judge_prompt(prompt, has_image=image is not None, negative=negative, policy=own)
    verdict = strictest(verdict, *pictures)
    if as_json:
        print(json.dumps(verdict.to_json(), ensure_ascii=False, indent=2))
    else:
        print(f"{verdict.decision}: {verdict.detail} (category {verdict.category}, rule {verdict.rule})")
    raise typer.Exit(3 if verdict.decision == "refused" else 0)


def list_refusals(
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="How many to list, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List what the policy refused on this computer."""
    from itertools import islice

    from lichtspiel.workflows import refusals

    entries = list(islice(refusals.entries(), limit))
    if as_json:
        print(json.dumps({"refusals": entries}, ensure_ascii=False, indent=2))
        return
    for entry in entries:
        row = f"{entry.get('time')}  {entry.get('stage'):<8}  {entry.get('decision'):<13}  {entry.get('rule')}"
        print(printable(f"{row}  {entry.get('prompt', '')}"))


def make_identity(as_json: Json = False) -> None:
    """Create the signing identity, if there is none.

    The first video creates it, too.
    """
    from lichtspiel.seal import load_identity

    load_identity()
    show_identity(as_json)


def show_identity(as_json: Json = False) -> None:
    """Show who signs videos on this computer."""
    from lichtspiel.seal import describe_identity, find_identity

    identity = find_identity()
    if identity is None:
        print("{}" if as_json else "no identity yet: the first video creates one, or: lichtspiel identity init")
        return
    description = describe_identity(identity)
    if as_json:
        print(json.dumps(description, ensure_ascii=False, indent=2))
        return
    for name, value in description.items():
        if value:
            print(f"{name:<14}{', '.join(value) if isinstance(value, list) else value}")


def import_certificate(
    certificate: Annotated[
        Path, typer.Option(metavar="FILE", help="PEM file with the certificate, then those that issued it.")
    ],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM file with the private key.")] = None,
    command: Annotated[
        str | None,
        typer.Option(metavar="PROGRAM", help="Program that signs instead of a key: bytes in, signature out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign with a certificate of your own.

    Videos that were sealed before are still recognized.
    """
    from lichtspiel.seal import import_identity

    import_identity(certificate, key, command)
    show_identity(as_json)
