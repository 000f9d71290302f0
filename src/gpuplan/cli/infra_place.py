"""Which stack, in which region, as whom: what `gpuplan infra` is told of the section [aws], and who said so.

Called by `cli.infra` alone. It calls AWS only to look at the stack and to name the account.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from gpuplan.aws import stack as stacks
from gpuplan.aws.location import Location, configuration_text, locate
from gpuplan.aws.session import Session
from gpuplan.core.errors import UsageError
from gpuplan.core.explain import complaints
from gpuplan.workload.load import CONFIG_FILE, Layers, read_config
from gpuplan.workload.schema import NO_REGION, Aws, setting_fields

_SECTION = "aws."
_FIELDS = {field.name: field for field in setting_fields() if field.section == "aws"}


def _option(name: str) -> Any:  # noqa: ANN401 - typer's own class is private
    field = _FIELDS[name]
    return typer.Option(field.flag, envvar=field.variable, help=field.help, show_default=False)


StackOption = Annotated[str | None, _option("stack")]
RegionOption = Annotated[str | None, _option("region")]
ProfileOption = Annotated[str | None, _option("profile")]
PrefixOption = Annotated[str | None, _option("prefix")]


@dataclass(frozen=True)
class Place:
    """A stack's name and where it is or will be."""

    stack: str
    stack_from: str
    """The flag, variable or file that named it; empty: it is the default."""
    prefix: str | None
    """None: nobody said one."""
    location: Location
    session: Session

    def standing(self) -> stacks.Stack:
        """Return the stack.

        Raises:
            UsageError: there is none.
        """
        found = stacks.describe(self.session, self.stack)
        if found is None:
            raise UsageError(
                f"there is no stack {self.stack} in {self.location.region}",
                why=f"looked in account {self.session.identity().account}, region from {self.location.region_from}",
                fix=stacks.command(self.session, "deploy", self.stack),
            )
        return found


def told(ctx: typer.Context, config: Path | None, **options: str | None) -> Layers:
    """Return what is said of [aws]: by the command's options and their variables, over the configuration file.

    Raises:
        UsageError: the file is not usable.
    """
    layers = Layers()
    file = config or (Path(CONFIG_FILE) if Path(CONFIG_FILE).exists() else None)
    if file is not None:
        layers.add({key: value for key, value in read_config(file).items() if key.startswith(_SECTION)}, str(file))
    for name, value in options.items():
        if value is not None:
            source = ctx.get_parameter_source(name)
            from_variable = source is not None and source.name == "ENVIRONMENT"
            layers.add({f"{_SECTION}{name}": value}, _FIELDS[name].variable if from_variable else _FIELDS[name].flag)
    return layers


def stack_name(layers: Layers) -> str:
    """Return the name of the stack, valid or not: what is told or the default."""
    return str(layers.values.get(f"{_SECTION}stack", Aws.model_fields["stack"].default))


def place(layers: Layers) -> Place:
    """Return the stack's name and where it is, with a session that has called nothing yet.

    Raises:
        UsageError: no region is known, or a value is not one.
    """
    values = {name: layers.values.get(f"{_SECTION}{name}") for name in ("region", "profile", "stack", "prefix")}
    said = {name: value for name, value in values.items() if value is not None}
    try:
        # The region may come from elsewhere; something has to stand for it where the rest is judged.
        aws = Aws.model_validate({"region": NO_REGION, **said})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise UsageError(
            f"{_FIELDS[name].flag}: {complaints(error, Aws)[0]}",
            why=f"from {layers.origins[_SECTION + name]}",
            fix=f"{_FIELDS[name].flag}: {_FIELDS[name].help}",
        ) from error
    location = locate(
        aws.region if "region" in said else None,
        layers.origins.get(f"{_SECTION}region", ""),
        aws.profile,
        layers.origins.get(f"{_SECTION}profile", ""),
        os.environ,
        configuration_text(os.environ),
    )
    prefix = aws.prefix if "prefix" in said else None
    return Place(
        stack=aws.stack,
        stack_from=layers.origins.get(f"{_SECTION}stack", ""),
        prefix=prefix,
        location=location,
        session=Session(location.region, location.profile),
    )
