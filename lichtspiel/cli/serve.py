"""The verbs of the server."""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lichtspiel.cli.common import Json, Weights, needs, without_effect
from lichtspiel.cli.flags import flag_of, under_terms
from lichtspiel.errors import InvalidInput, printable

if TYPE_CHECKING:
    from lichtspiel.serve.queue.jobs import Jobs
    from lichtspiel.serve.queue.webhooks import Webhook
    from lichtspiel.serve.settings import Settings
    from lichtspiel.workflows.terms import Terms

__all__ = [
    "Database", "cancel_job", "create_webhook", "list_jobs", "list_webhooks", "moment", "open_jobs", "remove_webhook",
    "serve", "show_job",
]  # fmt: skip

Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="SQLAlchemy address. [default: a SQLite file in the data folder]"),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, such as video_1f…")]


def _option(metavar: str, help: str, least: int | None = None, most: int | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help, min=least, max=most)


@under_terms
def serve(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    ctx: typer.Context,
    host: Annotated[str, _option("ADDRESS", "Address to listen on; a public one needs --require-key.")] = "127.0.0.1",
    port: Annotated[int, _option("NUMBER", "Port to listen on; 0 for any that is free.", 0, 65535)] = 8000,
    model: Annotated[list[str] | None, _option("NAME", "Model to offer. [default: nano; may be repeated]")] = None,
    weights: Weights = None,
    loras: Annotated[Path | None, _option("FOLDER", "Folder of LoRA files that requests may name.")] = None,
    database: Database = None,
    storage: Annotated[str | None, _option("URL", "Folder or fsspec address, such as s3://bucket/folder.")] = None,
    workers: Annotated[int, _option("NUMBER", "Workers that always run.", 0)] = 1,
    max_workers: Annotated[int | None, _option("NUMBER", "Most workers while jobs wait. [default: --workers]")] = None,
    device: Annotated[
        list[str] | None, _option("NAME", "Device of a worker: auto, cpu or cuda:N. [may be repeated]")
    ] = None,
    ray: Annotated[str | None, _option("ADDRESS", "Run workers on Ray: auto, ray://HOST:10001 or local.")] = None,
    cores: Annotated[int, _option("NUMBER", "Cores per worker on the Ray cluster.", 1)] = 1,
    gpus_per_job: Annotated[int, _option("NUMBER", "GPUs that make each video together.", 1)] = 1,
    require_key: Annotated[bool, typer.Option("--require-key", help="Require an API key for each request.")] = False,
    open_probes: Annotated[bool, typer.Option("--open-probes", help="Open /ready and /metrics.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write the log as lines of JSON.")] = False,
    traces: Annotated[str | None, _option("URL", "OpenTelemetry collector, such as http://127.0.0.1:4318.")] = None,
    transcriber: Annotated[str | None, _option("ENGINE", "What hears videos that are translated.")] = None,
    translator: Annotated[str | None, _option("ENGINE", "What translates them.")] = None,
    voice: Annotated[list[str] | None, _option("ENGINE", "What speaks. [may be repeated, for speakers]")] = None,
    lips: Annotated[str | None, _option("PLUG", "What makes lips follow: onnx:FILE or command:FILE.")] = None,
    queue: Annotated[int, _option("NUMBER", "How many jobs may wait.", 1)] = 100,
    keep_days: Annotated[float, _option("DAYS", "How long to keep finished videos.")] = 30.0,
    thresholds: Annotated[
        Path | None, _option("FILE", "TOML file of thresholds for moderations, as `moderate --calibrate` writes them.")
    ] = None,
    *,
    terms: Terms,
    as_json: Json = False,
) -> None:
    """Start the server: an HTTP API and a page.

    Requests become jobs in a durable queue, and workers make the videos. `lichtspiel serve key` makes API keys, and
    `lichtspiel serve jobs` lists and cancels jobs.
    """
    if ctx.invoked_subcommand is not None:
        typed = [name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"]
        without_effect({flag_of(name): True for name in typed}, f"write options after `serve {ctx.invoked_subcommand}`")
        return
    from lichtspiel.serve.settings import Settings
    from lichtspiel.understand.moderation import Thresholds

    if cores != 1 and ray is None:
        raise InvalidInput("--cores goes with --ray; workers on this computer share its cores")
    optional: dict[str, Any] = {"database": database, "storage": storage, "models": tuple(model) if model else None}
    settings = Settings(
        **{name: value for name, value in optional.items() if value is not None},
        host=host, port=port, weights=tuple(weights or ()), loras=loras, require_key=require_key,
        open_probes=open_probes, log_json=log_json, traces=traces, queue_limit=queue, keep_days=keep_days, terms=terms,
        thresholds=Thresholds() if thresholds is None else Thresholds.read(thresholds),
        transcriber=transcriber, translator=translator, voices=tuple(voice or ()), lips=lips,
        devices=_devices(device or ["auto"], workers, max_workers), min_workers=workers, cores=cores,
        gpus_per_job=gpus_per_job,
    )  # fmt: skip
    _check_engines(settings)
    with needs("serve"):  # only now: it loads PyTorch, and what is typed wrong is told before that
        from lichtspiel.serve.server import serve as run
    backend = None
    if ray is not None:
        with needs("cluster"):
            from lichtspiel.serve.workers.ray_cluster import Cluster
        backend = Cluster(ray, settings)
    run(settings, backend, lambda address: _announce(address, settings, as_json))


def _check_engines(settings: Settings) -> None:
    """Refuse engines that do not exist now, rather than with the first video."""
    from lichtspiel.translate import engines, hear, speak, translators

    if settings.lips is not None:
        from lichtspiel.workflows.lips import choose

        choose(settings.lips)
    for flag, typed, room, placeless in (
        ("--transcriber", settings.transcriber, hear, ["pocketsphinx"]),
        ("--translator", settings.translator, translators, ["apertium"]),
        *(("--voice", voice, speak, ["espeak"]) for voice in settings.voices),
    ):
        if typed is not None:
            named = engines.parse(flag, typed, room.KINDS, placeless)
            if named.place is not None and named.kind != "chat":
                engines.existing(named, "the engine's files")


def _announce(address: str, settings: Settings, as_json: bool) -> None:
    """Say where the server listens, once it does."""
    if as_json:
        print(json.dumps({"address": address, "models": settings.models}), flush=True)
        return
    least, most = settings.min_workers, len(settings.devices)
    count = f"{most} worker{'' if most == 1 else 's'}" if least == most else f"{least} to {most} workers"
    count += f" of {settings.gpus_per_job} processes" if settings.gpus_per_job > 1 else ""
    print(f"serving {', '.join(settings.models)} on {address} with {count}; press Ctrl-C to stop", file=sys.stderr)


def _devices(devices: list[str], least: int, most: int | None) -> tuple[str, ...]:
    """The device of each worker that may run."""
    most = least if most is None else most
    if most < least:
        raise InvalidInput(f"--max-workers {most} is less than --workers {least}; try --max-workers {least}")
    if most and len(devices) not in {1, most}:
        raise InvalidInput(
            f"--device names {len(devices)} devices for {most} workers; name one for each, or one for all"
        )
    return tuple(devices * most if len(devices) == 1 else devices)[:most]


def open_jobs(database: str | None) -> Jobs:
    """The jobs in a database, or in that of this installation."""
    from lichtspiel.serve.settings import Settings
    from lichtspiel.serve.workers import supervisor

    return supervisor.open_jobs(Settings(database=database) if database else Settings())


def create_webhook(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to post, such as https://example.org/videos.")],
    key: Annotated[str | None, typer.Option(metavar="NAME", help="Only for videos of this API key.")] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Allow http and hosts of your own network.")
    ] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Register an address that is told when a video has ended.

    Prints its secret, which is shown once. Requests are signed with it as Standard Webhooks says, and sent again for
    three days if they fail.
    """
    from lichtspiel.serve.queue.api_keys import Keys
    from lichtspiel.serve.queue.webhooks import Webhooks

    jobs = open_jobs(database)
    owners = {row.name: row.id for row in Keys(jobs).list() if row.revoked is None}
    if key is not None and key not in owners:
        raise InvalidInput(f"--key {key}: there is no such key in use; `lichtspiel serve key list` lists them")
    made = Webhooks(jobs).create(url, owners[key] if key is not None else None, private=allow_private)
    if as_json:
        print(json.dumps({**_shown(made, owners), "secret": made.secret}))
        return
    print(f"created {made.id} for {made.url}; its secret is shown only now", file=sys.stderr)
    print(made.secret)


def list_webhooks(database: Database = None, as_json: Json = False) -> None:
    """List the addresses that are told when a video has ended."""
    from lichtspiel.serve.queue.api_keys import Keys
    from lichtspiel.serve.queue.webhooks import Webhooks

    jobs = open_jobs(database)
    owners = {row.name: row.id for row in Keys(jobs).list()}
    rows = [_shown(one, owners) for one in Webhooks(jobs).list()]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['id']}  {'disabled' if row['disabled'] else 'in use':<8}  {row['key'] or 'all':<12}  {row['url']}")


def remove_webhook(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the webhook, such as wh_1f…")],
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Remove an address, with what is still to be sent to it."""
    from lichtspiel.serve.queue.webhooks import Webhooks

    Webhooks(open_jobs(database)).remove(id)
    print(json.dumps({"id": id, "removed": True}) if as_json else f"removed {id}")


def _shown(webhook: Webhook, owners: dict[str, str]) -> dict[str, Any]:
    """A webhook as plain values, without its secret."""
    facts = {name: value for name, value in asdict(webhook).items() if name not in {"secret", "owner"}}
    names = {id: name for name, id in owners.items()}
    moments = {name: facts[name] and moment(facts[name]) for name in ("created", "disabled")}
    return {**facts, **moments, "key": names.get(webhook.owner) if webhook.owner is not None else None}


def moment(seconds: float | None) -> str | None:
    """A time as text: ISO 8601 in UTC."""
    return (
        None
        if seconds is None
        else datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
    )


def list_jobs(
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="How many, newest first.")] = 20,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List the jobs of the server."""
    from lichtspiel.serve.api.objects import job_object

    jobs, _ = open_jobs(database).page(None, limit=limit)
    if as_json:
        print(json.dumps([job_object(job) for job in jobs], ensure_ascii=False))
        return
    for job in jobs:
        when = datetime.datetime.fromtimestamp(job.created, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(f"{when}  {job.id}  {job.state:<11}  {job.progress:>4.0%}  {job.model}  {job.error_code or ''}".rstrip())


def show_job(id: JobId, database: Database = None, as_json: Json = False) -> None:
    """Show a job as clients see it."""
    from lichtspiel.serve.api.objects import job_object

    shown = job_object(open_jobs(database).get(id, None))
    if as_json:
        print(json.dumps(shown, ensure_ascii=False))
        return
    for name, value in shown.items():
        if value not in (None, "", [], {}):
            print(printable(f"{name.replace('_', ' '):<23}{json.dumps(value, ensure_ascii=False)}"))


def cancel_job(id: JobId, database: Database = None, as_json: Json = False) -> None:
    """Cancel a job that waits or is in progress."""
    from lichtspiel.serve.api.objects import job_object

    job = open_jobs(database).cancel(id, None)
    print(json.dumps(job_object(job), ensure_ascii=False) if as_json else f"{id}: {job.state}")
