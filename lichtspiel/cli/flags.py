"""Flags that are written down once: those of a request come from `request.OPTIONS`, those of the terms from `terms`.

A verb names a parameter `options` or `terms`; `of_request` and `under_terms` put the flags there, so that no verb
repeats them.
"""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from lichtspiel.cli.common import MARKS, POLICY, secret, without_effect
from lichtspiel.config import EXCLUSIVE, config_path, read_config
from lichtspiel.errors import LichtspielError, RequestError, name_fields, shortened
from lichtspiel.options import COMPUTING
from lichtspiel.request import OPTIONS, default_of, hint_of, rule_of, schema_of

__all__ = ["Options", "PolicyFile", "flag_of", "message", "of_request", "terms", "under_terms"]

Verb = Callable[..., None]


def _option(*names: str, group: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=group)


Profile = Annotated[
    str, _option("--marks", group=MARKS, metavar="eu|us|cn|all", help="Whose rules on marking AI video to follow.")
]
Label = Annotated[bool | None, _option("--label/--no-label", group=MARKS, help="Show or leave out the visible label.")]
Language = Annotated[
    str | None, _option("--label-language", group=MARKS, metavar="en|de|zh|fr|es", help="Language of the label.")
]
Corner = Annotated[
    str | None,
    _option(
        "--label-corner", group=MARKS, metavar="CORNER",
        help="top-right, top-left, bottom-right or bottom-left. [default: top-right]",
    ),
]  # fmt: skip
Seconds = Annotated[
    float | None,
    _option(
        "--label-seconds", group=MARKS, metavar="SECONDS",
        help="How long to show the label, at least 2 s. [default: throughout]",
    ),
]  # fmt: skip
NoMarks = Annotated[
    str | None, _option("--no-marks", group=MARKS, metavar="REASON", help="Leave out all marks; records the reason.")
]
Consent = Annotated[
    str | None,
    _option(
        "--consent", group=POLICY, metavar="TEXT",
        help="Who is shown and that they agreed, where the policy asks for it; it is recorded.",
    ),
]  # fmt: skip
PolicyFile = Annotated[
    Path | None, _option("--policy", group=POLICY, metavar="FILE", help="TOML file that changes the policy's rules.")
]
Preset = Annotated[
    str | None, _option("--preset", group=COMPUTING, metavar="NAME", help="Use a preset of `lichtspiel config`.")
]
LogRefused = Annotated[
    bool, _option("--log-refused-prompt", group=POLICY, help="Keep refused prompts in the log of refusals.")
]
GuardUrl = Annotated[
    str | None,
    _option(
        "--guard", group=POLICY, metavar="URL", help="OpenAI-compatible moderation endpoint that judges prompts, too."
    ),
]
GuardModel = Annotated[
    str | None,
    _option("--guard-model", group=POLICY, metavar="NAME", help="Model to ask the guard for. [default: guard]"),
]
GuardKey = Annotated[
    Path | None, _option("--guard-key", group=POLICY, metavar="FILE", help="File that holds the guard's API key.")
]
Embed = Annotated[
    bool, _option("--embed-prompt", group=POLICY, help="Publish the prompt in the seal, instead of a digest of it.")
]
NoRecord = Annotated[
    bool, _option("--no-record-prompt", group=POLICY, help="Do not keep the prompt in this computer's record.")
]
Timestamp = Annotated[
    str | None,
    _option("--timestamp", group=MARKS, metavar="URL", help="RFC 3161 authority that timestamps the signature."),
]


def terms(  # noqa: PLR0913, PLR0917  (one parameter is one flag)
    marks: Profile = "eu",
    label: Label = None,
    label_language: Language = None,
    label_corner: Corner = None,
    label_seconds: Seconds = None,
    no_marks: NoMarks = None,
    consent: Consent = None,
    policy: PolicyFile = None,
    log_refused_prompt: LogRefused = False,
    guard: GuardUrl = None,
    guard_model: GuardModel = None,
    guard_key: GuardKey = None,
    embed_prompt: Embed = False,
    no_record_prompt: NoRecord = False,
    timestamp: Timestamp = None,
) -> Any:
    """The `Terms` that flags ask for. Raises InvalidInput for flags that others leave without effect."""
    from lichtspiel.policy import HttpGuard
    from lichtspiel.policy.prompts import load
    from lichtspiel.seal import Marks
    from lichtspiel.workflows.terms import Terms

    described: dict[str, Any] = {
        "label": label, "language": label_language, "corner": label_corner, "seconds": label_seconds,
    }  # fmt: skip
    if guard is None:
        without_effect({"--guard-model": guard_model, "--guard-key": guard_key}, "add --guard URL, or drop them")
    if no_marks is not None:
        left_out: dict[str, object] = {"--label": label, "--label-language": label_language}
        left_out |= {"--label-corner": label_corner, "--label-seconds": label_seconds}
        left_out |= {"--marks": None if marks == "eu" else marks, "--timestamp": timestamp}
        left_out |= {"--embed-prompt": embed_prompt or None}
        without_effect(left_out, "--no-marks leaves out all marks; drop one or the other")
    try:
        chosen = Marks.none(no_marks) if no_marks is not None else Marks.of(marks, **described)
    except RequestError as error:
        typed = {"profile": "marks", "reason": "no_marks"}.get(error.field, f"label_{error.field}")
        field = error.field if error.field == "label" else typed
        raise RequestError(field, error.value, error.rule, error.nearest) from None
    if no_marks is not None:
        print("note: this video will carry no marks; the reason is kept in the record", file=sys.stderr)
    return Terms(
        marks=chosen,
        consent=consent,
        policy=load(policy) if policy else None,
        log_refused_prompt=log_refused_prompt,
        guard=HttpGuard(url=guard, model=guard_model or "guard", key=secret(guard_key)) if guard else None,
        embed_prompt=embed_prompt,
        record_prompt=not no_record_prompt,
        timestamp=timestamp,
    )


def parameters(verb: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The parameters of a verb, their annotations evaluated; what takes time to import stays unknown."""
    unknown = dict.fromkeys(("Terms", "DataOptions", "RunOptions"), object)
    hints = get_type_hints(verb, localns=unknown, include_extras=True)
    signature = inspect.signature(verb).parameters
    return {name: parameter.replace(annotation=hints[name]) for name, parameter in signature.items()}


def expand(verb: Verb, into: str, flags: dict[str, inspect.Parameter], make: Callable[..., Any]) -> Verb:
    """The verb with some flags in place of its parameter `into`, whose value `make` makes of them."""
    shown: list[inspect.Parameter] = []
    for name, parameter in parameters(verb).items():
        shown += flags.values() if name == into else [parameter]
    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        value = make(**{name: values.pop(name) for name in flags})
        verb(**values, **{into: value})

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def under_terms(verb: Verb) -> Verb:
    """Give a verb with a parameter `terms` the flags that these are made of."""
    return expand(verb, "terms", parameters(terms), terms)


def flag_of(name: str) -> str:
    """How an option of a request is typed."""
    flag = (hint_of(name).flag if name in OPTIONS else "") or name
    return f"--{flag.replace('_', '-')}"


class Options(dict[str, Any]):
    """The options of a request by field: those typed, completed from the user's configuration."""

    def __init__(self, typed: Mapping[str, Any], flags: Collection[str], preset: str | None) -> None:
        self.typed, self._config, self._preset = typed, read_config(), preset
        super().__init__({name: value for name, value in self.complete({}).items() if name in flags})

    def complete(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of one video, completed by what was typed and by the configuration."""
        free = {name for name in self.typed if EXCLUSIVE.get(name) not in fields}
        typed = {name: value for name, value in self.typed.items() if name in free}
        return self._config.complete({**typed, **fields}, self._preset)


def of_request(*names: str, model: str | None = None) -> Callable[[Verb], Verb]:
    """Give a verb with a parameter `options` the flags of a request: all but the prompt, or those named, and
    `--preset`. `model` is the checkpoint that the verb takes where none is typed, if not the usual one. The verb gets
    what was typed, completed from the user's configuration, by field; values stay texts, which `Request` checks with
    its own words."""
    flags = {name: _flag(name, model if name == "model" else None) for name in names or OPTIONS if name != "prompt"}
    preset = inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Preset)

    def collect(preset: str | None, **values: Any) -> Options:
        typed = {name: value for name, value in values.items() if value is not None and value is not False}
        return Options(typed, flags, preset)

    def give(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def run(**values: Any) -> None:
            options = values["options"]
            try:
                verb(**values)
            except RequestError as error:
                if error.field not in options or error.field in options.typed:
                    raise
                rule = f"{error.rule}; it is not typed, but set in {config_path()}"
                raise RequestError(error.field, error.value, rule, error.nearest) from None

        return expand(run, "options", {**flags, "preset": preset}, collect)

    return give


def _flag(name: str, default_shown: str | None = None) -> inspect.Parameter:
    schema, hint = schema_of(name), hint_of(name)
    kind: Any = {"boolean": bool, "array": list[str] | None}.get(schema.get("type", ""), str | None)
    metavar = hint.metavar or ("|".join(map(str, schema["enum"])) if "enum" in schema else "NUMBER")
    option = typer.Option(
        flag_of(name),
        metavar=None if kind is bool else metavar,
        help=_help(name, default_shown),
        rich_help_panel=hint.group,
    )
    default = False if kind is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _help(name: str, default_shown: str | None = None) -> str:
    """The description of an option, with its values where these are numbers, and its default."""
    schema, default = schema_of(name), default_shown or default_of(name)
    facts = []
    if not hint_of(name).rule and schema.get("type") in {"integer", "number"} and "enum" not in schema:
        facts.append(rule_of(name).removeprefix("a whole number ").removeprefix("a number "))
    if schema.get("type") == "array":
        facts.append("may be repeated")
    elif default is not None and default is not False:
        facts.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
    elif "default" not in schema and name not in {"seconds", "size"}:
        facts.append("default: random" if name == "seed" else "default: the model's")
    text = name_fields(schema["description"], flag_of)
    return f"{text} [{'; '.join(facts)}]" if facts else text


def message(error: LichtspielError) -> str:
    """An error for whoever typed a command: fields are called as their flags are typed."""
    if not isinstance(error, RequestError):
        return str(error)
    if error.message is not None:
        return name_fields(error.message, flag_of)
    flag = "the prompt" if error.field == "prompt" else flag_of(error.field)
    typed = flag if error.value is None or isinstance(error.value, bool) else f"{flag} {_quoted(error.value)}"
    text = f"{typed} is not valid: {name_fields(error.rule, flag_of)}"
    if error.nearest is None or isinstance(error.nearest, bool):
        return text
    return f"{text}; try {flag} {_quoted(error.nearest)}"


def _quoted(value: object) -> str:
    text = str(value)
    return shortened(shlex.quote(text) if text.isprintable() else repr(text))
