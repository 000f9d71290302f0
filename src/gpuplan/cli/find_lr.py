"""`gpuplan find-lr`: the range test alone, on this machine by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from gpuplan.cli.account import runs_in_aws
from gpuplan.cli.launch import start
from gpuplan.cli.options import DebugOption, Given, LivePricesOption, Output, OutputOption, with_range_test
from gpuplan.cli.planning import plan_from, said
from gpuplan.workload.schema import Launch

_HERE = "local"


@with_range_test
def command(
    given: Given,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking; asked only where AWS bills.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave once the job is submitted.")] = False,
    allow_retired: Annotated[bool, typer.Option("--allow-retired", help="Run for a retired instance.")] = False,
    live_prices: LivePricesOption = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Find the learning rate on one GPU, of this machine unless --instance names another; trains nothing.

    It is for a training on one GPU here and on all of an AWS instance's GPUs; --carry-to-gpus names another number.
    Exits with 9 where no learning rate can be trusted, with the reason and what to do.
    """
    planned = plan_from(_range_test(given), live=live_prices)
    planned = replace(planned, given=given, command="find-lr")
    agreed = yes or not runs_in_aws(planned.plan)
    start(planned, output, dry_run=dry_run, yes=agreed, detach=detach, allow_retired=allow_retired, debug=debug)


def _range_test(given: Given) -> Given:
    """Return what was given as settings of the pipeline `lr`, for one GPU where it runs on this machine."""
    values: dict[str, object] = {"launch.pipeline": "lr"}
    upper = said(given).values
    named = {"lr.carry_to_gpus", "launch.world_size"} & upper.keys()
    if upper.get("launch.instance", Launch.model_fields["instance"].default) == _HERE and not named:
        values["lr.carry_to_gpus"] = 1
    origins = dict.fromkeys(values, "gpuplan find-lr")
    return Given(given.values | values, given.origins | origins, given.config)
