"""How a plan comes to its learning rate, as people read it: the sweeps, the rule, the policy and why, the check.

Called by `plan_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.units import learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.planning.reuse import ReusedLr
    from gpuplan_job.contract import SweepSpec


def lr_facts(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield where the learning rate comes from and how it gets from one GPU to all."""
    step = plan.step("lr-find")
    if plan.lr.reused is not None:
        yield from _reused(plan.lr.reused, plan)
    elif plan.lr.learning_rate is not None:
        yield "learning rate", f"{learning_rate(plan.lr.learning_rate)}, as given"
    if step is None or step.sweep is None:
        return
    sweep, finder, target = step.sweep, plan.batch.lr_find.global_batch, plan.batch.train.global_batch
    found = f"found on 1 GPU by {_sweeps(sweep.runs, sweep.iterations)} (rule: {plan.lr.rule})"
    if finder == target:
        yield "learning rate", f"{found}, used as it is: the batch stays {target}"
    else:
        yield "learning rate", f"{found}, carried from batch {finder} to {target} by {plan.lr.transfer}"
        yield "carried by", f"{plan.lr.transfer}: {plan.lr.transfer_why}; {_check(sweep, target)}"
    if sweep.compare:
        batches = ", ".join(str(at.batch.global_batch) for at in sweep.compare)
        yield "compared", f"batches {batches} beside {finder}: {_sweeps(sweep.runs, sweep.iterations)} at each"


def _reused(reused: ReusedLr, plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    found = reused.decision
    if found.learning_rate is None or found.training_learning_rate is None:
        return
    yield (
        "learning rate",
        f"{learning_rate(found.training_learning_rate)}, from the range test of run {reused.run_id}: "  # noqa: ISC004 - one sentence
        f"{learning_rate(found.learning_rate)} on 1 GPU (rule: {found.rule}), carried from batch "
        f"{plan.batch.lr_find.global_batch} to {plan.batch.train.global_batch} by {found.transfer}",
    )
    yield "carried by", f"{found.transfer}: {plan.lr.transfer_why}"
    if found.note:
        yield "", found.note
    if found.warning:
        yield "warning", found.warning


def _check(sweep: SweepSpec, target: int) -> str:
    if sweep.check is None:
        return f"check off (--lr-check sweeps at batch {target} too, accumulated)"
    at = sweep.check
    made = f"{at.batch.accumulation} x {at.batch.per_gpu} accumulated"
    return f"check on, {_sweeps(at.runs, at.iterations)} at batch {target}, {made}"


def _sweeps(runs: int, iterations: int) -> str:
    return f"{runs} sweep{'s' if runs > 1 else ''} of {iterations} steps"
