"""The verbs of the server."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Json, Weights
from lichtspiel.cli.flags import under_terms
from lichtspiel.errors import InvalidInput

if TYPE_CHECKING:
    from lichtspiel.serve.queue.jobs import Jobs
    from lichtspiel.workflows.terms import Terms

__all__ = ["cancel_job", "create_key", "list_jobs", "list_keys", "revoke_key", "serve", "show_job"]

Database = Annotated[
    str | None, typer.Option(metavar="URL", help="SQLAlchemy address; a file of this installation if not given.")
]


@under_terms
def serve(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's need --require-key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.", min=0, max=65535)] = 8000,
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
    workers: Annotated[int, typer.Option(help="Workers that are always there.", min=0)] = 1,
    max_workers: Annotated[
        int | None, typer.Option(help="Workers at most, while jobs wait; as many as --workers if not given.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Device of each worker: auto, cpu, cuda:N; may be repeated.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run workers on a Ray cluster: auto, ray://HOST:10001, local."),
    ] = None,
    cores: Annotated[int, typer.Option(help="Cores that each worker asks the Ray cluster for.", min=1)] = 1,
    require_key: Annotated[bool, typer.Option("--require-key", help="Ask every request for a key.")] = False,
    queue: Annotated[int, typer.Option(help="Jobs that may wait; more are told when to come back.", min=1)] = 100,
    keep_days: Annotated[float, typer.Option(help="Days that videos are kept after they ended.", min=0)] = 30.0,
    *,
    terms: Terms,
) -> None:
    """Serve the API that OpenAI's clients speak, and a page, from a durable queue of jobs."""
    try:
        from lichtspiel.serve.server import serve as run
        from lichtspiel.serve.settings import Settings

        if ray is not None:
            from lichtspiel.serve.workers.ray_cluster import Cluster
    except ModuleNotFoundError as error:
        extra = "cluster" if error.name == "ray" else "serve"
        raise InvalidInput(f"{error.name} is not installed; this needs: pip install 'lichtspiel[{extra}]'") from None
    if cores != 1 and ray is None:
        raise InvalidInput("cores: workers on this machine share its cores; --cores goes with --ray")
    given: dict[str, Any] = {"database": database, "storage": storage, "models": tuple(model) if model else None}
    settings = Settings(
        **{name: value for name, value in given.items() if value is not None},
        host=host, port=port, weights=tuple(weights or ()), loras=loras, require_key=require_key, queue_limit=queue,
        keep_days=keep_days, terms=terms, devices=_devices(device or ["auto"], workers, max_workers),
        min_workers=workers, cores=cores,
    )  # fmt: skip
    backend = Cluster(ray, settings) if ray is not None else None
    count = f"{workers}" if max_workers is None else f"{workers} to {max_workers}"
    serving = f"{', '.join(settings.models)} on {{}} with {count} worker{'' if count == '1' else 's'}"
    run(settings, backend, lambda url: print(f"serving {serving.format(url)}; press Ctrl-C to stop", file=sys.stderr))


def _devices(given: list[str], least: int, most: int | None) -> tuple[str, ...]:
    """The device of each worker that there may be."""
    most = least if most is None else most
    if most < least:
        raise InvalidInput(f"max-workers: {most} is fewer than the {least} that are always there")
    if most and len(given) not in {1, most}:
        raise InvalidInput(f"device: {len(given)} devices for {most} workers; give one for each, or one for all")
    return tuple(given * most if len(given) == 1 else given)[:most]


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
    from lichtspiel.serve.queue.api_keys import Keys

    key, secret = Keys(_jobs(database)).create(name, limit)
    print(f"made the key {key.name}; it is shown only now:", file=sys.stderr)
    print(secret)


def list_keys(database: Database = None, as_json: Json = False) -> None:
    """List the keys of the server."""
    from dataclasses import asdict

    from lichtspiel.serve.queue.api_keys import Keys

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
    from lichtspiel.serve.queue.api_keys import Keys

    Keys(_jobs(database)).revoke(name)
    print(f"{name} has no key any more")


def list_jobs(
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List the jobs of the server."""
    from lichtspiel.serve.api.objects import video_object

    found, _ = _jobs(database).page(None, limit=limit)
    if as_json:
        print(json.dumps([video_object(job) for job in found], ensure_ascii=False))
        return
    for job in found:
        when = datetime.datetime.fromtimestamp(job.created, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(f"{when}  {job.id}  {job.state:<11}  {job.progress:>4.0%}  {job.model}  {job.error_code or ''}".rstrip())


def show_job(id: Annotated[str, typer.Argument(help="The job's id.")], database: Database = None) -> None:
    """Show a job as clients see it."""
    from lichtspiel.serve.api.objects import video_object

    print(json.dumps(video_object(_jobs(database).get(id, None)), ensure_ascii=False, indent=2))


def cancel_job(id: Annotated[str, typer.Argument(help="The job's id.")], database: Database = None) -> None:
    """Stop a job that waits or is being made."""
    print(f"{id}: {_jobs(database).cancel(id, None).state}")
