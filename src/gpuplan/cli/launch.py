"""`gpuplan launch`: agree on a plan, then drive it to its end."""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from gpuplan.aws.checks.base import Status, exit_code
from gpuplan.aws.checks.run import preflight
from gpuplan.backends import base as backends
from gpuplan.cli import plan as plan_command
from gpuplan.cli.account import backend_of, completed, identified, located, runs_in_aws, session
from gpuplan.cli.doctor import needs
from gpuplan.cli.driving import drive
from gpuplan.cli.options import (
    DebugOption,
    Given,
    LivePricesOption,
    LrFromOption,
    Output,
    OutputOption,
    with_settings,
)
from gpuplan.cli.own_code import shelve
from gpuplan.cli.planning import Planned, again, plan_from
from gpuplan.cli.runs import store_of
from gpuplan.core import names
from gpuplan.core.errors import ExitCode, GpuplanError, PlanRefusedError, UsageError
from gpuplan.core.failpoint import failpoint
from gpuplan.planning.plan import LaunchPlan
from gpuplan.planning.refuse import refuse
from gpuplan.reports.layout import Facts, console, show
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
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave once the first job is submitted.")] = False,
    allow_retired: Annotated[bool, typer.Option("--allow-retired", help="Launch on a retired instance.")] = False,
    lr_from: LrFromOption = None,
    live_prices: LivePricesOption = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Run a pipeline: plan it, ask, find the learning rate, carry it over, train; every step recorded and resumable.

    Ctrl-C detaches: the job goes on, and `gpuplan resume` takes the run up again.
    """
    if plan is not None:
        planned = Planned(saved_plan(plan, given, live_prices=live_prices, lr_from=lr_from), Layers(), given)
    else:
        planned = plan_from(given, live=live_prices, lr_from=lr_from)
    start(planned, output, dry_run=dry_run, yes=yes, detach=detach, allow_retired=allow_retired, debug=debug)


def start(
    planned: Planned, output: Output, *, dry_run: bool, yes: bool, detach: bool, allow_retired: bool, debug: bool
) -> None:
    """Show a plan, ask unless `yes`, and drive its run to the end; exits with the run's status, or shows it alone.

    Raises:
        GpuplanError: the plan is refused, or the account lacks what it needs; nothing was started.
    """
    if dry_run:
        plan_command.present(planned, output, debug=debug, nothing_submitted=True)
        return
    agreed = _in_account(planned.plan, allow_retired=allow_retired)
    if output is Output.TEXT:
        show(plan_text(agreed, datetime.now(UTC).date()), console(stderr=True))
    refuse(agreed, agreed.provenance.settings.launch.max_cost, allow_retired=allow_retired)
    backend_of(agreed)
    if runs_in_aws(agreed):
        _show_account(planned, agreed)
        _check_account(agreed)
    _ask(yes=yes)
    shelve(agreed)
    runs = store_of(agreed)
    run_id = names.run_id(workload_slug(agreed), datetime.now(UTC), secrets.randbits(_RANDOM_BITS))
    failpoint("before-create")
    runs.create(run_id, ev.Planned(plan=agreed, owner=names.owner()))
    failpoint("after-planned")
    typer.echo(f"\nrun {run_id}", err=True)
    drive(run_id, runs, output, detach=detach)


def _in_account(plan: LaunchPlan, *, allow_retired: bool) -> LaunchPlan:
    """Return the plan with the role and the bucket that the account has for it, where it leaves them out.

    What would be refused anyway is refused before AWS is asked for anything.
    """
    settings = plan.provenance.settings
    refuse(plan, settings.launch.max_cost, allow_retired=allow_retired)
    if not runs_in_aws(plan) or plan.backend not in backends.names():
        return plan
    filled = completed(settings)
    return plan if filled == settings else again(plan, filled)


def _show_account(planned: Planned, agreed: LaunchPlan) -> None:
    """Say who pays, where, and why there.

    Raises:
        CredentialsError: AWS does not know us, or the plan's role is of another account.
    """
    aws = agreed.provenance.settings.aws
    caller = identified(aws)
    place = located(aws, planned.layers.origins.get("aws.profile", "the plan"))
    region_from = planned.layers.origins.get("aws.region", "the plan")
    facts = Facts(
        (
            ("account", f"{caller.account} as {caller.arn} (credentials: {place.profile or place.profile_from})"),
            ("region", f"{aws.region} (from {region_from})"),
            ("bucket", f"s3://{aws.bucket}/{aws.prefix}/"),
        )
    )
    show([facts], console(stderr=True))


def _check_account(agreed: LaunchPlan) -> None:
    """Look at what the run needs of the account, before the first call that costs anything.

    Raises:
        GpuplanError: something is missing; its exit code is that of `gpuplan doctor`.
    """
    checks = preflight(session(agreed.provenance.settings.aws), needs(agreed, lifecycle=None))
    wrong = [check for check in checks if check.status is Status.ERROR]
    for check in checks:
        if check.status is Status.WARNING:
            typer.echo(f"note: {check.name}: {check.message}" + (f" ({check.fix})" if check.fix else ""), err=True)
    if wrong:
        first = min(wrong, key=lambda check: check.exit_code is not exit_code(wrong))
        more = "; ".join(f"{check.name}: {check.message}" for check in wrong if check is not first)
        error = GpuplanError(f"{first.name}: {first.message}", why=more, fix=first.fix)
        error.exit_code = exit_code(wrong)
        raise error


def saved_plan(path: Path, given: Given, *, live_prices: bool, lr_from: str | None = None) -> LaunchPlan:
    """Return a saved plan if it is unchanged and still what its settings, with what else it holds, lead to."""
    if given.values or live_prices or lr_from:
        beside = {"--live-prices": live_prices, "--lr-from": lr_from}
        more = [*sorted(given.origins.values()), *(flag for flag, value in beside.items() if value)]
        raise UsageError(
            f"--plan fixes everything, but {', '.join(more)} was given as well",
            fix=f"{_unset(given)}gpuplan launch --plan {path}",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan {path}", why=str(error), fix="gpuplan plan --out plan.json") from error
    saved = from_document(text, str(path))
    fresh = again(saved)
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
