"""Options made from the settings: one for each field of `workload.schema`, with its variable; no second list of them.

`with_settings` gives a command all of them as one `Given`. Used by plan and launch.
"""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from gpuplan.workload.schema import SettingField, setting_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Output(StrEnum):
    """Form of the result on stdout."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Form of the result on stdout.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and where each setting came from.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; by default ./gpuplan.toml if there is one.")
]
LivePricesOption = Annotated[
    bool,
    typer.Option(
        "--live-prices", help="Ask AWS for today's prices, kept for 24 hours; needs credentials, costs nothing."
    ),
]
LrFromOption = Annotated[
    str | None,
    typer.Option(
        "--lr-from",
        help="Run whose stored range test gives the learning rate, if it was made under the same conditions.",
        show_default=False,
    ),
]
RunArgument = Annotated[str | None, typer.Argument(help="Run id or the start of one; by default the newest run.")]

_NOT_OF_A_SEARCH = {
    "launch.pipeline",
    "launch.spot",
    "launch.max_hours",
    "launch.checkpoint_minutes",
    "launch.divergence_guard",
    "launch.loggers",
}
"""Read only where something is trained."""
_NOT_OF_A_RANGE_TEST = _NOT_OF_A_SEARCH | {"launch.world_size", "launch.nodes", "lr.learning_rate"}
"""GPUs of the training that it is for are --carry-to-gpus."""
_ALIASES = {"workload.per_gpu_batch": "--batch-size"}
"""Other flags where one GPU runs, so that there is but one batch."""
_ACCOUNT = {"aws.region", "aws.profile", "aws.bucket", "aws.prefix", "aws.stack"}


@dataclass(frozen=True)
class Given:
    """Settings given as flags or variables: values by dotted key, and where each came from."""

    values: dict[str, object]
    origins: dict[str, str]
    config: Path | None

    @property
    def profile(self) -> str | None:
        """The AWS profile among them: whose credentials count here and now, whatever a run was planned with."""
        value = self.values.get("aws.profile")
        return value if isinstance(value, str) else None

    def arguments(self) -> list[str]:
        """Return the options among them as a command line would repeat them."""
        arguments: list[str] = []
        for key, origin in self.origins.items():
            value = self.values[key]
            if origin.startswith("--"):
                arguments += (
                    [origin if value else f"--no-{origin[2:]}"] if isinstance(value, bool) else [origin, str(value)]
                )
        if self.config is not None:
            arguments += ["--config", str(self.config)]
        return arguments


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(given, ...)` an option for every setting; its own parameters follow them."""
    return _with_fields(command, setting_fields())


def with_range_test(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(given, ...)` the options of a range test alone, without those of a training that it has not."""
    fields = [f for f in setting_fields() if f.section != "find_batch" and f.key not in _NOT_OF_A_RANGE_TEST]
    return _with_fields(command, fields, aliases=_ALIASES)


def with_batch_search(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(given, ...)` the options of a batch search alone: no learning rate, no spot, no end."""
    fields = [field for field in setting_fields() if field.section != "lr" and field.key not in _NOT_OF_A_SEARCH]
    return _with_fields(command, fields, aliases=_ALIASES)


def with_account(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(given, ...)` the options that say where in AWS a run is that this machine does not know."""
    return _with_fields(command, [field for field in setting_fields() if field.key in _ACCOUNT], first="own")


def _with_fields(
    command: Callable[..., None],
    fields: list[SettingField],
    first: Literal["settings", "own"] = "settings",
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Callable[..., None]:
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in {"ctx", "given"}]

    @wraps(command)
    def run(ctx: typer.Context, **parameters: Any) -> None:  # noqa: ANN401 - whatever the options hold
        rest = {p.name: parameters.pop(p.name) for p in own}
        command(given=_given(ctx, fields, parameters), **rest)

    named = inspect.Parameter.KEYWORD_ONLY
    settings = [_option(field, aliases) for field in fields]
    settings.append(inspect.Parameter("config", named, default=None, annotation=ConfigOption))
    parameters = [parameter.replace(kind=named) for parameter in own]
    options = [inspect.Parameter("ctx", named, annotation=typer.Context)]
    options += [*settings, *parameters] if first == "settings" else [*parameters, *settings]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined] # functions take one, stubs do not know
    run.__annotations__ = {p.name: p.annotation for p in options}
    del run.__dict__["__wrapped__"]  # or typer would look through to the command itself
    return run


def _option(field: SettingField, aliases: Mapping[str, str]) -> inspect.Parameter:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    help_text = field.help + (f" One of {', '.join(choices)}." if choices else "")
    flag = f"{field.flag}/--no-{field.flag[2:]}" if field.annotation is bool else field.flag
    flags = [flag, *([aliases[field.key]] if field.key in aliases else [])]
    option = typer.Option(*flags, envvar=field.variable, help=help_text, show_default=False)
    return inspect.Parameter(
        _parameter(field),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_plain_type(field.annotation) | None, option],
    )


def _parameter(field: SettingField) -> str:
    return f"{field.section}__{field.name}"


def _plain_type(annotation: object) -> type:
    """Return what the shell's text becomes before the schema judges it: bool, int, float or str."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation is Decimal:
        return str
    return annotation if annotation in (bool, int, float) else str


def _given(ctx: typer.Context, fields: list[SettingField], parameters: dict[str, Any]) -> Given:
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for field in fields:
        value = parameters[_parameter(field)]
        if value is None:
            continue
        source = ctx.get_parameter_source(_parameter(field))
        from_variable = source is not None and source.name == "ENVIRONMENT"
        values[field.key] = value
        origins[field.key] = field.variable if from_variable else field.flag
    return Given(values, origins, parameters["config"])
