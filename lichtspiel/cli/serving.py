"""The verbs of the server."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Json, Weights, under_terms

if TYPE_CHECKING:
    from lichtspiel.seal import Terms
    from lichtspiel.serve.jobs import Jobs

__all__ = ["cancel_job", "create_key", "list_jobs", "list_keys", "revoke_key", "serve", "show_job"]

Database = Annotated[
    str | None, typer.Option(metavar="URL", help="SQLAlchemy address; a file of this installation if not given.")
]


@under_terms
def serve(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need --require-key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    model: Annotated[
        list[str] | None, typer.Option(help="Checkpoint to offer; may be repeated; nano if not given.")
    ] = None,
    weights: Weights = None,
    loras: Annotated[Path | None, typer.Option(help="Folder of LoRA files that requests may name.")] = None,
    database: Database = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Folder for files, or an fsspec address such as s3://bucket/folder."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=0)] = 1,
    device: Annotated[
        list[str] | None, typer.Option(help="Device of each worker: auto, cpu, cuda:N; may be repeated.")
    ] = None,
    require_key: Annotated[bool, typer.Option("--require-key", help="Ask every request for a key.")] = False,
    queue: Annotated[int, typer.Option(help="Jobs that may wait; more are told when to come back.", min=1)] = 100,
    keep_days: Annotated[float, typer.Option(help="Days that videos are kept after they ended.", min=0)] = 30.0,
    *,
    terms: Terms,
) -> None:
    """Serve the API that OpenAI's clients speak, and a page, from a durable queue of jobs."""
    from lichtspiel.errors import InvalidInput

    try:
        from lichtspiel.serve.server import serve as run
        from lichtspiel.serve.settings import Settings
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{error.name} is not installed; the server needs: pip install 'lichtspiel[serve]'"
        ) from None
    devices = device or ["auto"]
    if workers and len(devices) not in {1, workers}:
        raise InvalidInput(f"device: {len(devices)} devices for {workers} workers; give one for each, or one for all")
    given: dict[str, Any] = {"database": database, "storage": storage, "models": tuple(model) if model else None}
    settings = Settings(
        **{name: value for name, value in given.items() if value is not None},
        host=host, port=port, weights=tuple(weights or ()), loras=loras, require_key=require_key, queue_limit=queue,
        keep_days=keep_days, terms=terms, devices=tuple(devices * workers if len(devices) == 1 else devices)[:workers],
    )  # fmt: skip
    print(
        f"serving {', '.join(settings.models)} on http://{host}:{port} with {workers} workers; Ctrl-C ends it",
        file=sys.stderr,
    )
    run(settings)


def _jobs(database: str | None) -> Jobs:
    from lichtspiel.serve.server import open_server
    from lichtspiel.serve.settings import Settings

    return open_server(Settings(database=database) if database else Settings()).jobs


def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    limit: Annotated[str | None, typer.Option(help="How many videos: 20/h, 5/min, 100/d.")] = None,
    database: Database = None,
) -> None:
    """Make a key for the server; it is shown once and kept as a digest."""
    from lichtspiel.serve.keys import Keys

    key, secret = Keys(_jobs(database)).create(name, limit)
    print(f"made the key {key.name}; it is shown only now:", file=sys.stderr)
    print(secret)


def list_keys(database: Database = None, as_json: Json = False) -> None:
    """List the keys of the server."""
    from dataclasses import asdict

    from lichtspiel.serve.keys import Keys

    rows = [
        {name: value for name, value in asdict(key).items() if name != "digest"} for key in Keys(_jobs(database)).list()
    ]
    if as_json:
        print(json.dumps(rows, default=str))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


def revoke_key(name: Annotated[str, typer.Argument(help="Whose key it is.")], database: Database = None) -> None:
    """End a key; what was made with it stays."""
    from lichtspiel.serve.keys import Keys

    Keys(_jobs(database)).revoke(name)
    print(f"{name} has no key any more")


def list_jobs(
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List the jobs of the server."""
    from lichtspiel.serve.wire import video_object

    found, _ = _jobs(database).page(None, limit=limit)
    if as_json:
        print(json.dumps([video_object(job) for job in found], ensure_ascii=False))
        return
    for job in found:
        when = datetime.datetime.fromtimestamp(job.created, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(f"{when}  {job.id}  {job.state:<11}  {job.progress:>4.0%}  {job.model}  {job.error_code or ''}".rstrip())


def show_job(id: Annotated[str, typer.Argument(help="The job's id.")], database: Database = None) -> None:
    """Show a job as clients see it."""
    from lichtspiel.serve.wire import video_object

    print(json.dumps(video_object(_jobs(database).get(id, None)), ensure_ascii=False, indent=2))


def cancel_job(id: Annotated[str, typer.Argument(help="The job's id.")], database: Database = None) -> None:
    """Stop a job that waits or is being made."""
    print(f"{id}: {_jobs(database).cancel(id, None).state}")
