"""The command line: it parses, calls and prints. Everything heavy is imported inside the verb that needs it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the request or a file is not usable,
3 refused by policy, 1 anything else; `verify` adds 4 for "nothing found" and 5 for "tampered".
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from lichtspiel.cli import files, make, serving, train, vouch
from lichtspiel.errors import LichtspielError

__all__ = ["app", "main"]


def group(help: str) -> typer.Typer:
    """Commands under one name. Rich's help would cost 0.2 s."""
    return typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=help
    )


app = group("Open video models that anyone can run, adapt and vouch for.")
VERBS: tuple[Callable[..., None], ...] = (
    make.generate, make.decode, make.batch, make.replay, vouch.verify, vouch.seal, make.models, make.show, files.pull,
    files.inspect, files.plan, serving.serve,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)

GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    # group: (help, its verbs)
    "lora": (
        "Files that adapt a model.",
        {"inspect": files.inspect_lora, "convert": files.convert_lora},
    ),
    "worlds": ("The toybox: captioned clips that the package renders itself.", {"render": train.render_clips}),
    "train": (
        "Train the networks of a small model from scratch.",
        {"vae": train.train_vae, "dit": train.train_dit},
    ),
    "key": (
        "Keys of the server.",
        {"create": serving.create_key, "list": serving.list_keys, "revoke": serving.revoke_key},
    ),
    "jobs": (
        "Jobs of the server.",
        {"list": serving.list_jobs, "show": serving.show_job, "cancel": serving.cancel_job},
    ),
    "policy": (
        "What may be asked for and what may leave.",
        {"show": vouch.show_policy, "check": vouch.check_policy},
    ),
    "keys": (
        "The identity that signs videos here.",
        {"init": vouch.make_identity, "show": vouch.show_identity, "import": vouch.import_certificate},
    ),
    "log": ("The record of what was made here.", {"list": vouch.list_record, "export": vouch.export_record}),
}
for title, (about, verbs) in GROUPS.items():
    inner = group(about)
    for name, function in verbs.items():
        inner.command(name)(function)
    app.add_typer(inner, name=title)


def main() -> None:
    """Entry point: runs a command and turns errors into one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is handled as Ctrl-C
    try:
        app()
    except LichtspielError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
