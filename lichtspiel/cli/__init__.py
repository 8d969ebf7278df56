"""The command line: it parses, calls and prints. Everything heavy is imported inside the verb that needs it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the request or a file is not usable,
3 refused by policy, 1 anything else; `verify` adds 4 for "nothing found" and 5 for "tampered".
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from lichtspiel.cli import generate, provenance, serve, train, weights
from lichtspiel.errors import LichtspielError

__all__ = ["app", "main"]


def group(help: str) -> typer.Typer:
    """Commands under one name. Rich's help would cost 0.2 s."""
    return typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=help
    )


app = group("Open video models that anyone can run, adapt and vouch for.")
VERBS: tuple[Callable[..., None], ...] = (
    generate.generate, generate.decode, generate.batch, generate.replay, provenance.verify, provenance.seal,
    generate.models, generate.show, weights.pull, weights.inspect, weights.plan, serve.serve,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)

GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    # group: (help, its verbs)
    "lora": (
        "Files that adapt a model.",
        {"inspect": weights.inspect_lora, "convert": weights.convert_lora},
    ),
    "worlds": ("The toybox: captioned clips that the package renders itself.", {"render": train.render_clips}),
    "train": (
        "Train the networks of a small model from scratch.",
        {"vae": train.train_vae, "dit": train.train_dit},
    ),
    "key": (
        "Keys of the server.",
        {"create": serve.create_key, "list": serve.list_keys, "revoke": serve.revoke_key},
    ),
    "jobs": (
        "Jobs of the server.",
        {"list": serve.list_jobs, "show": serve.show_job, "cancel": serve.cancel_job},
    ),
    "policy": (
        "What may be asked for and what may leave.",
        {"show": provenance.show_policy, "check": provenance.check_policy},
    ),
    "keys": (
        "The identity that signs videos here.",
        {"init": provenance.make_identity, "show": provenance.show_identity, "import": provenance.import_certificate},
    ),
    "log": ("The record of what was made here.", {"list": provenance.list_record, "export": provenance.export_record}),
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
