"""`gpuplan launch`: agree on a plan, then drive it to its end."""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gpuplan.backends import base as backends
from gpuplan.cli import plan as plan_command
from gpuplan.cli.driving import drive
from gpuplan.cli.home import home, store
from gpuplan.cli.options import DebugOption, Given, Output, OutputOption, with_settings
from gpuplan.cli.planning import Planned, build, plan_from
from gpuplan.core import names
from gpuplan.core.errors import ExitCode, PlanRefusedError, UsageError
from gpuplan.core.failpoint import failpoint
from gpuplan.planning.plan import LaunchPlan
from gpuplan.planning.refuse import refuse
from gpuplan.reports.layout import console, show
from gpuplan.reports.plan_document import differences, from_document, workload_slug
from gpuplan.reports.plan_text import plan_text
from gpuplan.store import events as ev
from gpuplan.workload.load import Layers

_RANDOM_BITS = 20


@with_settings
def command(
    given: Given,
    plan: Annotated[Path | None, typer.Option("--plan", help="Run exactly this saved plan.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and start nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    allow_retired: Annotated[bool, typer.Option("--allow-retired", help="Launch on a retired instance.")] = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Run a pipeline: plan it, ask, find the learning rate, carry it over, train; every step recorded and resumable.

    Ctrl-C detaches: the job goes on, and `gpuplan resume` takes the run up again.
    """
    planned = Planned(_saved(plan, given), Layers(), given) if plan else plan_from(given)
    if dry_run:
        plan_command.present(planned, output, debug=debug, nothing_submitted=True)
        return
    agreed = planned.plan
    if output is Output.TEXT:
        show(plan_text(agreed, datetime.now(UTC).date()), console(stderr=True))
    refuse(agreed, agreed.provenance.settings.launch.max_cost, allow_retired=allow_retired)
    backends.create(agreed.backend, home())
    _ask(yes=yes)
    runs = store()
    run_id = names.run_id(workload_slug(agreed), datetime.now(UTC), secrets.randbits(_RANDOM_BITS))
    failpoint("before-create")
    runs.create(run_id, ev.Planned(plan=agreed))
    failpoint("after-planned")
    typer.echo(f"\nrun {run_id}", err=True)
    drive(run_id, runs, output)


def _saved(path: Path, given: Given) -> LaunchPlan:
    """Return a saved plan if it is unchanged and still what its settings lead to."""
    if given.values:
        raise UsageError(
            f"--plan fixes everything, but {', '.join(sorted(given.origins.values()))} was given as well",
            fix=f"{_unset(given)}gpuplan launch --plan {path}",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan {path}", why=str(error), fix="gpuplan plan --out plan.json") from error
    saved = from_document(text, str(path))
    fresh = build(saved.provenance.settings)
    if fresh.plan_id != saved.plan_id:
        parts = [part for part in differences(saved, fresh) if not part.endswith("_sha256")] or differences(
            saved, fresh
        )
        raise PlanRefusedError(
            f"{path} is stale: planned today it would come out differently",
            why=f"what differs: {', '.join(parts[:6])}{' ...' if len(parts) > 6 else ''}",  # noqa: PLR2004 - enough to see
            fix="plan again with the same options and --out, and compare",
        )
    return saved


def _ask(*, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody is here to say yes", why="there is no terminal to ask on", fix="add --yes")
    try:
        agreed = typer.confirm("\nStart?", default=False, err=True)
    except typer.Abort as error:  # Ctrl-C or the end of the input
        raise KeyboardInterrupt from error
    if not agreed:
        raise typer.Exit(ExitCode.USAGE)


def _unset(given: Given) -> str:
    """Return the command that takes variables out of the way, where they are what is too much."""
    variables = [origin for origin in given.origins.values() if not origin.startswith("--")]
    return f"unset {' '.join(variables)}; " if variables else ""
