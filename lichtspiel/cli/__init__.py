"""The command line: it parses, calls and prints. Everything heavy is imported inside the verb that needs it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the request or a file is not usable,
3 refused by policy, 1 anything else; `verify` adds 4 for "nothing found" and 5 for "tampered".
"""

from __future__ import annotations

import signal
import sys

import typer

from lichtspiel.cli import make, train, vouch
from lichtspiel.errors import LichtspielError

__all__ = ["app", "main"]


def group(help: str) -> typer.Typer:
    """Commands under one name. Rich's help would cost 0.2 s."""
    return typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=help
    )


app = group("Open video models that anyone can run, adapt and vouch for.")
for verb in (make.generate, make.decode, vouch.verify, vouch.seal, make.models, make.show):
    app.command()(verb)

worlds = group("The toybox: captioned clips that the package renders itself.")
worlds.command("render")(train.render_clips)
app.add_typer(worlds, name="worlds")

training = group("Train the networks of a small model from scratch.")
training.command("vae")(train.train_vae)
training.command("dit")(train.train_dit)
app.add_typer(training, name="train")

policy = group("What may be asked for and what may leave.")
policy.command("show")(vouch.show_policy)
policy.command("check")(vouch.check_policy)
app.add_typer(policy, name="policy")

keys = group("The identity that signs videos here.")
keys.command("init")(vouch.make_identity)
keys.command("show")(vouch.show_identity)
keys.command("import")(vouch.import_certificate)
app.add_typer(keys, name="keys")

log = group("The record of what was made here.")
log.command("list")(vouch.list_record)
log.command("export")(vouch.export_record)
app.add_typer(log, name="log")


def main() -> None:
    """Entry point: runs a command and turns errors into one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is handled as Ctrl-C
    try:
        app()
    except LichtspielError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
