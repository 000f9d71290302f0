"""`gpuplan suggest`: read a stored range test with any rule and transfer policy; runs no job."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from gpuplan.cli.home import store
from gpuplan.cli.options import DebugOption, Output, OutputOption, RunArgument
from gpuplan.core.errors import NoResultError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.core.names import did_you_mean
from gpuplan.core.units import learning_rate
from gpuplan.planning.range_test import target_on
from gpuplan.planning.replan import more_gpus
from gpuplan.reports.critical_batch_text import critical_batch_blocks, verdict_text
from gpuplan.reports.decision_text import decision_facts
from gpuplan.reports.layout import Block, Facts, Line, Table, console, show
from gpuplan_job import rules, transfer
from gpuplan_job.contract import Decision
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from gpuplan.planning.advice.critical_batch import CriticalBatch
    from gpuplan.planning.plan import LaunchPlan


def command(
    run: RunArgument = None,
    rule: Annotated[str | None, typer.Option("--lr-rule", help="Rule to apply; by default every one.")] = None,
    policy: Annotated[str | None, typer.Option("--lr-transfer", help="Policy to apply; by default the plan's.")] = None,
    world_size: Annotated[int | None, typer.Option("--world-size", help="Carry over to this many GPUs.", min=1)] = None,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Apply a rule and a transfer policy to a run's stored curves, and say what the training's LR would be."""
    del debug
    runs = store()
    run_id = runs.resolve(run)
    record = runs.record(run_id)
    result = record.measured()
    if result is None:
        reused = record.plan.lr.reused
        raise NoResultError(
            f"{run_id} has no range test to read",
            why=f"its learning rate is from run {reused.run_id}" if reused else "its lr-find has not ended well",
            fix=f"gpuplan suggest {reused.run_id}" if reused else f"gpuplan status {run_id}",
        )
    for flag, name, choices in (("--lr-rule", rule, rules.names()), ("--lr-transfer", policy, transfer.names())):
        if name is not None and name not in choices:
            raise UsageError(
                f"{flag} {name!r} is not known", why=did_you_mean(name, choices), fix="gpuplan suggest --help"
            )
    gpus = world_size or record.plan.batch.train.world_size
    wanted = target_on(record.plan, result.sweep.target, gpus)
    wanted = replace(wanted, transfer=policy or wanted.transfer)
    chosen, target = wanted.transfer, wanted.global_batch
    decisions = [decide(result, replace(wanted, rule=name)) for name in ([rule] if rule else rules.names())]
    advised = more_gpus(record.plan, result.noise_scale.samples if result.noise_scale else None, result.measured)
    if output is Output.JSON:
        documents = [{k: v for k, v in asdict(decision).items() if v is not None} for decision in decisions]
        typer.echo(
            json.dumps(
                {
                    "schema": "gpuplan.suggest/1",
                    "run_id": run_id,
                    "global_batch": target,
                    "steps": wanted.steps,
                    "decisions": documents,
                    "critical_batch": advised.document(),
                },
                indent=2,
            )
        )
    elif rule:
        show(
            [
                Line(f"gpuplan suggest {run_id} · rule {rule}"),
                Facts((*decision_facts(decisions[0]), *_use(decisions[0], record.plan))),
            ],
            console(),
        )
    else:
        show(
            [
                Line(f"gpuplan suggest {run_id} · carried to batch {target} by {chosen}"),
                _table(decisions),
                Line("training LR by each transfer policy"),
                _by_policy(decisions),
            ],
            console(),
        )
    if output is Output.TEXT:
        typer.echo()
        show(_advised(advised), console())
    if all(decision.verdict != "ok" for decision in decisions):
        raise typer.Exit(NoResultError.exit_code)


def _advised(found: CriticalBatch | Unknown) -> list[Block]:
    """Return whether more GPUs than the run's would pay."""
    if isinstance(found, Unknown):
        return [Facts((("more GPUs", verdict_text(found)),))]
    return critical_batch_blocks(found)


def _table(decisions: list[Decision]) -> Table:
    rows = tuple(
        (
            decision.rule,
            decision.verdict,
            _lr(decision.learning_rate),
            " .. ".join(map(learning_rate, decision.band)) if decision.band else "",
            _lr(decision.training_learning_rate),
        )
        for decision in decisions
    )
    return Table(("rule", "verdict", "LR on 1 GPU", "single sweeps", "training LR"), rows)


def _by_policy(decisions: list[Decision]) -> Table:
    """Return a row a rule and a column a policy; a policy that has nothing to go by has an empty one."""
    names = transfer.names()
    rows = tuple(
        (decision.rule, *(_lr(decision.by_policy.get(name)) for name in names), decision.warning)
        for decision in decisions
    )
    return Table(("rule", *names, ""), rows)


def _use(decision: Decision, plan: LaunchPlan) -> list[tuple[str, str]]:
    """Return how to train with the learning rate; one that is given warms up only if that is asked for."""
    if decision.training_learning_rate is None:
        return [("next", decision.fix)]
    warmup = plan.lr.warmup.for_lr(decision.multiplier) if plan.lr.warmup else None
    more = f" --warmup-epochs {warmup.epochs:g}" if warmup and warmup.steps and not warmup.asked else ""
    rate = learning_rate(decision.training_learning_rate)
    return [("use", f"launch again with the same options and --lr {rate}{more}")]


def _lr(value: float | None) -> str:
    return "" if value is None else learning_rate(value)
