"""`gpuplan plan`: say what a run would be, and start nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gpuplan.backends import base as backends
from gpuplan.cli.home import home
from gpuplan.cli.options import (
    DebugOption,
    Given,
    LivePricesOption,
    LrFromOption,
    Output,
    OutputOption,
    with_settings,
)
from gpuplan.cli.planning import Planned, plan_from
from gpuplan.core.errors import GpuplanError, UsageError
from gpuplan.planning.refuse import refuse
from gpuplan.reports.layout import Facts, console, show
from gpuplan.reports.plan_document import to_document
from gpuplan.reports.plan_text import next_commands, plan_text
from gpuplan_job.atomic import write_atomic


@with_settings
def command(
    given: Given,
    out: Annotated[Path | None, typer.Option("--out", help="Also save the plan, for launch --plan.")] = None,
    lr_from: LrFromOption = None,
    live_prices: LivePricesOption = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Show batch, memory, time and cost of a run, and the exact request of each step. Starts nothing.

    No AWS call without --live-prices, no credentials, no PyTorch needed.
    """
    planned = plan_from(given, live=live_prices, lr_from=lr_from)
    present(planned, output, debug=debug, nothing_submitted=True)
    if out is not None:
        save(planned, out)


def present(planned: Planned, output: Output, *, debug: bool, nothing_submitted: bool) -> None:
    """Print a plan in the wanted form."""
    if output is Output.JSON:
        typer.echo(json.dumps(to_document(planned.plan, home()), indent=2, ensure_ascii=False))
        return
    target = console()
    blocks = plan_text(planned.plan, datetime.now(UTC).date())
    if debug:
        blocks.append(
            Facts(
                tuple(
                    (key, f"{value}  (from {planned.layers.origins[key]})")
                    for key, value in planned.layers.values.items()
                )
            )
        )
    if nothing_submitted:
        blocks.append(_next(planned))
    show(blocks, target)


def _next(planned: Planned) -> Facts:
    """Return what to paste next; where a launch would be refused, why and what to do about it instead."""
    settings = planned.plan.provenance.settings
    try:
        refuse(planned.plan, settings.launch.max_cost, allow_retired=False)
        backends.create(planned.plan.backend, home(), settings.aws)
    except GpuplanError as error:
        return Facts((("launch", f"would be refused: {error.what}"), ("fix", error.fix)))
    return next_commands(planned.arguments(), planned.command)


def save(planned: Planned, out: Path) -> None:
    """Write the plan's document, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    text = json.dumps(to_document(planned.plan, home()), indent=2, ensure_ascii=False) + "\n"
    try:
        write_atomic(out, text)
    except (OSError, ValueError) as error:  # ValueError: the path has no name, as `.` and `/` have none
        raise UsageError(f"cannot write {str(out)!r}", why=str(error), fix="--out plan.json") from error
    typer.echo(f"saved {out}    next: gpuplan launch --plan {out}", err=True)
