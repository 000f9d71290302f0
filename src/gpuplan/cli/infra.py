"""`gpuplan infra show | deploy | destroy`: what stands in the account, shown before it changes and asked about."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, suppress
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuplan.aws import stack as stacks
from gpuplan.aws import stack_changes, stack_parameters, stack_removal
from gpuplan.aws import stack_template as template
from gpuplan.cli.infra_place import (
    Place,
    PrefixOption,
    ProfileOption,
    RegionOption,
    StackOption,
    place,
    stack_name,
    told,
)
from gpuplan.cli.options import ConfigOption, DebugOption, Output, OutputOption
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import ExitCode, GpuplanError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.reports import infra_text as report
from gpuplan.reports.layout import console
from gpuplan.reports.layout import show as print_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.aws.stack_wait import StackEvent

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Go ahead without asking.")]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="What gpuplan needs in the AWS account: a bucket, a role for the jobs, a policy for the people who launch.",
)


@app.command("show")
def show_infra(
    ctx: typer.Context,
    stack: StackOption = None,
    region: RegionOption = None,
    profile: ProfileOption = None,
    only_template: Annotated[
        bool, typer.Option("--template", help="Print the CloudFormation template itself.")
    ] = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Show what the template creates, and the stack that stands.

    Without credentials only the first; with --template no call is made at all.
    """
    del debug  # read by the entry point
    if only_template:
        typer.echo(template.text(), nl=False)
        return
    layers = told(ctx, config, stack=stack, region=region, profile=profile)
    found: report.Found
    try:
        found = _found(place(layers))
    except GpuplanError as error:  # to see the template nobody needs an account
        found = Unknown(unknown=f"{error.what} ({error.why})" if error.why else error.what)
    facts = (stack_name(layers), template.resources(), template.parameters(), found)
    _print(output, report.show_text(*facts), report.show_document(*facts))


@app.command("deploy")
def deploy_infra(
    ctx: typer.Context,
    stack: StackOption = None,
    region: RegionOption = None,
    profile: ProfileOption = None,
    instance_types: Annotated[
        str | None,
        typer.Option(help="Types launchers may start: g5,p4d,ml.g5.2xlarge or all, which is what a new stack has."),
    ] = None,
    max_runtime_hours: Annotated[
        float | None, typer.Option(help="Longest time limit that launchers may give a job; 120 in a new stack.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Monthly budget of the whole account in USD that warns by mail; 0 for none.")
    ] = None,
    budget_email: Annotated[str | None, typer.Option(help="Address that the budget warns.")] = None,
    prefix: PrefixOption = None,
    parameter: Annotated[
        list[str] | None, typer.Option(help="Any other parameter, as Name=value: gpuplan infra show lists them.")
    ] = None,
    yes: YesOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Create or change the stack, after asking.

    Shows the change set first. What is left out keeps the value the stack has.
    """
    del debug
    where = place(told(ctx, config, stack=stack, region=region, profile=profile, prefix=prefix))
    wanted: dict[str, str] = {}
    if where.prefix is not None:
        wanted["Prefix"] = where.prefix
    if instance_types is not None:
        wanted["InstanceTypes"] = stack_parameters.instance_types(instance_types)
    if max_runtime_hours is not None:
        wanted["MaxRuntimeSeconds"] = stack_parameters.max_runtime_seconds(max_runtime_hours)
    if budget is not None:
        wanted |= stack_parameters.budget(_usd(budget), budget_email)
    elif budget_email is not None:
        wanted["BudgetEmail"] = budget_email
    wanted = stack_parameters.assignments(parameter or (), wanted)
    _show_place(where)
    clock = SystemClock()
    change_set = stack_changes.propose(where.session, where.stack, wanted, clock)
    if change_set.empty:
        _report_deployed(where, where.standing(), output, changed=False)
        return
    try:
        _aside(report.change_text(change_set))
        _ask("Carry it out?", yes=yes)
    except BaseException:
        with suppress(GpuplanError):  # a proposal that stays changes nothing
            stack_changes.discard(where.session, change_set)
        raise
    with _watched(where):
        done = stack_changes.execute(where.session, change_set, clock, _show_event)
    _report_deployed(where, done, output, changed=True)


@app.command("destroy")
def destroy_infra(
    ctx: typer.Context,
    stack: StackOption = None,
    region: RegionOption = None,
    profile: ProfileOption = None,
    yes: YesOption = False,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Delete the stack; its bucket is kept unless it is empty.

    Old versions of objects count as content.
    """
    del debug
    where = place(told(ctx, config, stack=stack, region=region, profile=profile))
    _show_place(where)
    found = where.standing()
    stacks.check_deletable(where.session, found)
    stack_removal.check_unused(where.session, found)
    bucket = stack_removal.bucket_of(where.session, found)
    _aside(report.removal_text(found, bucket))
    _ask("Delete the stack?", yes=yes)
    with _watched(where):
        fate = stack_removal.remove(where.session, found, SystemClock(), _show_event)
    outcome = (where.stack, fate, where.location)
    _print(output, report.removed_text(*outcome), report.removed_document(*outcome))


def _found(where: Place) -> report.Found:
    """Return the stack and whether its template is the shipped one, or that there is none."""
    stack = stacks.describe(where.session, where.stack)
    if stack is None or stack.status == stacks.REVIEW:
        return report.NotDeployed(where.location.region)
    if not stack.ours:
        raise stacks.foreign(where.session, stack)
    try:
        body = stacks.template_body(where.session, stack)
    except GpuplanError as error:  # launchers may look at the stack, not at its template
        return report.Deployed(stack, Unknown(unknown=error.what))
    return report.Deployed(stack, body == template.text())


def _usd(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise UsageError(f"--budget {text!r}: must be an amount in dollars", fix="--budget 500") from None


def _show_place(where: Place) -> None:
    _aside([report.place_facts(where.stack, where.location, where.session.identity())])


def _aside(blocks: report.Blocks) -> None:
    """Print what is not the result, with an empty line after it."""
    print_blocks(blocks, console(stderr=True))
    typer.echo(err=True)


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("nobody is here to say yes", why="there is no terminal to ask on", fix="add --yes")
    try:
        agreed = typer.confirm(question, default=False, err=True)
    except typer.Abort as error:  # Ctrl-C or the end of the input
        raise KeyboardInterrupt from error
    if not agreed:
        raise typer.Exit(ExitCode.USAGE)


@contextmanager
def _watched(where: Place) -> Iterator[None]:
    """Say on Ctrl-C that the operation goes on without us."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nthe operation goes on in AWS: {stacks.command(where.session, 'show', where.stack)}", err=True)
        raise


def _show_event(event: StackEvent) -> None:
    reason = f"   {event.reason}" if event.reason else ""
    typer.echo(f" {event.status:<28} {event.logical_id}{reason}", err=True)


def _report_deployed(where: Place, found: stacks.Stack, output: Output, *, changed: bool) -> None:
    flags = "".join(
        f" {flag} {value}"
        for flag, value, origin in (
            ("--region", where.location.region, where.location.region_from),
            ("--profile", where.location.profile, where.location.profile_from),
            ("--stack", where.stack, where.stack_from),
        )
        if origin.startswith("--")
    )
    text = report.deployed_text(found, changed=changed, next_command=f"gpuplan doctor --instance g5{flags}")
    _print(output, text, report.deployed_document(found, changed=changed))


def _print(output: Output, blocks: report.Blocks, document: dict[str, Any]) -> None:
    if output is Output.JSON:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print_blocks(blocks, console())
