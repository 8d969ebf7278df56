"""The command line: it parses, calls and prints. Everything heavy is imported inside the verb that needs it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the request or a file cannot be used,
3 refused by policy, 1 anything else; `verify` adds 4 for "nothing found" and 5 for "tampered".
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any

import typer
import typer.main

from lichtspiel import __version__
from lichtspiel.cli import (
    config,
    curation,
    edit,
    errors,
    footage,
    generate,
    keys,
    provenance,
    record,
    serve,
    train,
    translate,
    tune,
    understand,
    weights,
)
from lichtspiel.cli.common import needs
from lichtspiel.cli.examples import EXAMPLES
from lichtspiel.cli.help import Command, Group
from lichtspiel.cli.lora import extract_lora, merge_lora, resize_lora
from lichtspiel.cli.tune_run import tune_full, tune_lora

__all__ = ["app", "main"]

Verb = Callable[..., None]
Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.")]


class Program(typer.Typer):
    """Commands under one name. They are made from their functions once and not for each call, because that takes longer
    than most of them."""

    @cached_property
    def made(self) -> Any:
        """The command with all commands under it."""
        return typer.main.get_command(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; see `click.Command.main`."""
        return self.made(*args, **kwargs)


def group(name: str, help: str) -> Program:
    """Commands under one name, which show their help if none of them follows."""
    typer_group = Program(
        name=name, cls=Group, help=help,
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, invoke_without_command=True,
    )  # fmt: skip

    @typer_group.callback()
    def bare(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is None:
            print(ctx.get_help())

    return typer_group


def add(parent: typer.Typer, path: str, verb: Verb, panel: str | None = None) -> None:
    """Put a verb into a group; `path` is what is typed after `lichtspiel`."""
    epilog = "\n".join(EXAMPLES.get(path, ()))
    parent.command(path.rsplit(maxsplit=1)[-1], cls=Command, epilog=epilog, rich_help_panel=panel)(verb)


app = group("", "Open video models that anyone can run, adapt and vouch for.")


@app.callback()
def start(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Open video models that anyone can run, adapt and vouch for."""
    if version:
        print(f"lichtspiel {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


VERBS: dict[str, dict[str, Verb]] = {
    # heading: verbs under it
    "Make videos": {
        "generate": generate.generate, "decode": generate.decode, "batch": generate.batch, "replay": generate.replay,
    },
    "Translate": {
        "translate": translate.translate, "transcribe": translate.transcribe, "languages": translate.languages,
    },
    "Real footage": {
        "track": footage.track, "edit": edit.edit, "extend": footage.extend, "bridge": footage.bridge,
        "loop": footage.loop, "control": footage.control,
    },
    "Understand videos": {
        "index": understand.index, "search": understand.search, "moderate": curation.moderate,
        "recommend": curation.recommend, "curate": curation.curate, "evaluate": curation.evaluate,
    },
    "Marks and seals": {"verify": provenance.verify, "seal": provenance.seal},
    "Models and weights": {
        "models": generate.models, "show": generate.show, "pull": weights.pull, "use": config.use,
        "inspect": weights.inspect, "plan": weights.plan, "calibrate": weights.calibrate, "config": config.show_config,
    },
}  # fmt: skip
GROUPS: dict[str, tuple[str, str, dict[str, Verb]]] = {
    # group: (heading, help, its verbs)
    "lora": (
        "Models and weights",
        "LoRA files, which adapt a model.",
        {
            "inspect": weights.inspect_lora,
            "convert": weights.convert_lora,
            "merge": merge_lora,
            "extract": extract_lora,
            "resize": resize_lora,
        },
    ),
    "policy": (
        "Marks and seals",
        "What may be asked for and what may leave.",
        {"show": provenance.show_policy, "check": provenance.check_policy, "refusals": provenance.list_refusals},
    ),
    "identity": (
        "Marks and seals",
        "The identity that signs videos on this computer.",
        {"init": provenance.make_identity, "show": provenance.show_identity, "import": provenance.import_certificate},
    ),
    "record": (
        "Marks and seals",
        "The record of what was made on this computer.",
        {
            "list": record.list_record,
            "show": record.show_record,
            "find": record.find_record,
            "erase": record.erase_prompt,
            "export": record.export_record,
        },
    ),
    "tune": (
        "Training",
        "Fine-tune a published model on your own clips.",
        {"check": tune.check_run, "look": tune.look_at_data, "lora": tune_lora, "full": tune_full},
    ),
    "toybox": ("Training", "Captioned clips that the package renders itself.", {"render": train.render_clips}),
    "train": (
        "Training",
        "Train the networks of a small model from scratch.",
        {"vae": train.train_vae, "dit": train.train_dit},
    ),
}
SERVER: dict[str, tuple[str, dict[str, Verb]]] = {
    "key": (
        "API keys of the server.",
        {
            "create": keys.create_key,
            "list": keys.list_keys,
            "renew": keys.renew_key,
            "revoke": keys.revoke_key,
        },
    ),
    "webhook": (
        "Addresses that are told when a video has ended.",
        {"create": serve.create_webhook, "list": serve.list_webhooks, "remove": serve.remove_webhook},
    ),
    "jobs": (
        "Jobs of the server.",
        {"list": serve.list_jobs, "show": serve.show_job, "cancel": serve.cancel_job},
    ),
}

for panel, verbs in VERBS.items():
    for name, verb in verbs.items():
        add(app, name, verb, panel)
for title, (panel, about, inner) in GROUPS.items():
    app.add_typer(subgroup := group(title, about), rich_help_panel=panel)
    for name, verb in inner.items():
        add(subgroup, f"{title} {name}", verb)
server = typer.Typer(
    name="serve", cls=Group, invoke_without_command=True, rich_markup_mode=None,
    epilog="\n".join(EXAMPLES["serve"]),
)  # fmt: skip
server.callback()(serve.serve)
app.add_typer(server, rich_help_panel="Server")
for title, (about, inner) in SERVER.items():
    server.add_typer(subgroup := group(title, about))
    for name, verb in inner.items():
        add(subgroup, f"serve {title} {name}", needs("serve")(verb))


SPINS = 2000
"""How often a thread of PyTorch looks whether the others are done before it sleeps (GNU OpenMP, 300,000 by itself)."""


def sleep_soon() -> None:
    """Let threads that PyTorch starts sleep soon, unless the user says otherwise: where other programs have processors,
    threads that look take the time of those that they look for."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def main() -> None:
    """Entry point: runs a command and turns errors into one line on stderr and an exit code."""
    sleep_soon()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is handled as Ctrl-C
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd files; what is wrong with them, our messages say
    sys.exit(errors.run(lambda: app(prog_name="lichtspiel", standalone_mode=False)))
