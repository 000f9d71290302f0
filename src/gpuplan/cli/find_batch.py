"""`gpuplan find-batch`: the batch search alone, on this machine by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from gpuplan.cli.account import runs_in_aws
from gpuplan.cli.launch import start
from gpuplan.cli.options import DebugOption, Given, LivePricesOption, Output, OutputOption, with_batch_search
from gpuplan.cli.planning import plan_from


@with_batch_search
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
    """Find the largest safe batch of a training, and the fastest per sample, on one GPU of its kind; trains nothing.

    --batch-size is the per-GPU batch that the search starts from. How many processes the training has, and whether it
    accumulates, counts: DDP's buckets and gradients that stay take memory too.
    """
    values: dict[str, object] = {"launch.pipeline": "find-batch"}
    origins = dict.fromkeys(values, "gpuplan find-batch")
    search = Given(given.values | values, given.origins | origins, given.config)
    planned = replace(plan_from(search, live=live_prices), given=given, command="find-batch")
    agreed = yes or not runs_in_aws(planned.plan)
    start(planned, output, dry_run=dry_run, yes=agreed, detach=detach, allow_retired=allow_retired, debug=debug)
