"""`gpuplan compare`: one workload on every instance, and start nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import typer

from gpuplan.backends import base as backends
from gpuplan.cli.live_prices import of_settings
from gpuplan.cli.options import DebugOption, Given, LivePricesOption, Output, OutputOption, with_settings
from gpuplan.cli.planning import built, gather, instances, over_defaults, resolve_profile, said, settled
from gpuplan.core.errors import UsageError
from gpuplan.planning.comparison import compare
from gpuplan.profiles.schema import Service
from gpuplan.reports.compare_text import compare_document, compare_text
from gpuplan.reports.layout import console, show
from gpuplan.workload.load import Layers

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.profiles.schema import InstanceProfile
    from gpuplan.workload.schema import Settings


@with_settings
def command(
    given: Given,
    live: LivePricesOption = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Plan one workload on every instance and show what fits, how long it takes and what it costs, cheapest first.

    Each row is what `gpuplan plan` says with the same options; where the batch does not fit, the largest that does.
    --instance says which row is yours; local adds this machine. Only --live-prices asks AWS for anything.
    """
    del debug  # read by the entry point
    upper = said(given)
    asked = None
    if "launch.instance" in upper.values:
        asked = resolve_profile(str(upper.values["launch.instance"]))
    inputs = _rows(upper, asked, live=live)
    rows = compare(inputs, built)
    if output is Output.JSON:
        typer.echo(json.dumps(compare_document(rows), indent=2, ensure_ascii=False))
        return
    origins = {key: origin for key, origin in given.origins.items() if key != "launch.instance"}
    arguments = replace(given, origins=origins).arguments()
    show(compare_text(rows, inputs[0], upper.values, arguments, asked.name if asked else None), console())


def _rows(upper: Layers, asked: InstanceProfile | None, *, live: bool) -> list[PlanInputs]:
    """Return what each row is a function of: each AWS profile on each backend that bills; this machine if asked.

    Raises:
        UsageError: a setting, a name or the data are not usable.
    """
    places = [(profile, backend) for profile in instances() for backend in _backends(upper)]
    if asked is not None and asked.defaults.backend not in get_args(Service):
        places.append((asked, asked.defaults.backend))
    settings = _settings(upper, *places[0])
    shapes = [shape for profile in instances() for shape in (profile.train, *profile.finders)]
    prices = of_settings(settings, [shape.instance_type for shape in shapes]) if live else None
    first = gather(settings, places[0][0], prices)
    return [first, *(replace(first, settings=_settings(upper, *place), profile=place[0]) for place in places[1:])]


def _settings(upper: Layers, profile: InstanceProfile, backend: str) -> Settings:
    own = Layers(dict(upper.values), dict(upper.origins))
    own.add({"launch.instance": profile.name, "launch.backend": backend}, "gpuplan compare")
    return settled(over_defaults(own, profile))


def _backends(upper: Layers) -> list[str]:
    """Return the backends to compare: those here that AWS bills, or the one that was asked for.

    Raises:
        UsageError: AWS does not bill what was asked for.
    """
    billing = [name for name in backends.names() if name in get_args(Service)]
    asked = upper.values.get("launch.backend")
    if asked is None:
        return billing
    if asked not in get_args(Service):
        raise UsageError(
            f"--backend {asked} (from {upper.origins['launch.backend']}): AWS bills nothing there to compare",
            fix=f"--backend {billing[0]}, or leave it out; --instance local adds this machine",
        )
    return [str(asked)]
