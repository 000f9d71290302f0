"""`gpuplan suggest`: read a stored range test with any rule and transfer policy; runs no job."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated

import typer

from gpuplan.cli.home import store
from gpuplan.cli.options import DebugOption, Output, OutputOption, RunArgument
from gpuplan.core.errors import NoResultError, UsageError
from gpuplan.core.names import did_you_mean
from gpuplan.core.units import learning_rate
from gpuplan.reports.layout import Facts, Line, Table, console, show
from gpuplan.reports.run_text import decision_facts
from gpuplan_job import rules, transfer
from gpuplan_job.contract import Decision
from gpuplan_job.decision import decide


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
        raise NoResultError(
            f"{run_id} has no range test to read", why="its lr-find has not ended well", fix=f"gpuplan status {run_id}"
        )
    for flag, name, choices in (("--lr-rule", rule, rules.names()), ("--lr-transfer", policy, transfer.names())):
        if name is not None and name not in choices:
            raise UsageError(
                f"{flag} {name!r} is not known", why=did_you_mean(name, choices), fix="gpuplan suggest --help"
            )
    train = record.plan.batch.train
    target = train.per_gpu * (world_size or train.world_size) * train.accumulation
    chosen = policy or record.plan.lr.transfer
    told = result.sweep.target
    wanted = told if target == told.global_batch else replace(told, global_batch=target, steps=0)
    decisions = [
        decide(result, replace(wanted, rule=name, transfer=chosen)) for name in ([rule] if rule else rules.names())
    ]
    if output is Output.JSON:
        documents = [asdict(decision) for decision in decisions]
        typer.echo(
            json.dumps(
                {"schema": "gpuplan.suggest/1", "run_id": run_id, "global_batch": target, "decisions": documents},
                indent=2,
            )
        )
    elif rule:
        show(
            [
                Line(f"gpuplan suggest {run_id} · rule {rule}"),
                Facts((*decision_facts(decisions[0]), *_use(decisions[0]))),
            ],
            console(),
        )
    else:
        show([Line(f"gpuplan suggest {run_id} · carried to batch {target} by {chosen}"), _table(decisions)], console())
    if all(decision.verdict != "ok" for decision in decisions):
        raise typer.Exit(NoResultError.exit_code)


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


def _use(decision: Decision) -> list[tuple[str, str]]:
    if decision.training_learning_rate is None:
        return [("next", decision.fix)]
    return [("use", f"launch again with the same options and --lr {learning_rate(decision.training_learning_rate)}")]


def _lr(value: float | None) -> str:
    return "" if value is None else learning_rate(value)
