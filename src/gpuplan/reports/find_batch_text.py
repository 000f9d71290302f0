"""The batch search as people and scripts read it: what a plan expects, what was found, how far the estimate was off.

Called by the reports of plans and runs and by the progress display.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import count, significant
from gpuplan.reports.layout import Table
from gpuplan_job.batch_search import RULE, is_safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.plan import FindBatchPlan, LaunchPlan, StepPlan
    from gpuplan.store.record import RunRecord
    from gpuplan_job.contract import BatchResult, BatchTrial

_NOT_MEASURABLE = {"unknown": "not measurable here"}


def batch_cell(step: StepPlan, plan: LaunchPlan) -> str:
    """Return the batch of a step as the plan's table shows it; one that is not known yet is marked with ~."""
    batch = step.batch
    if step.search is not None:
        if not step.tries:
            return f"from {batch.per_gpu} up"
        return f"{batch.per_gpu} .. {max(step.tries)} x 1, {len(step.tries)} tries"
    product = f"{batch.per_gpu} x {batch.world_size} x {batch.accumulation} = {batch.global_batch}"
    return f"~{product}" if plan.find_batch and not plan.find_batch.found else product


def plan_facts(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield how the batch comes about and what holds until then."""
    told, step = plan.find_batch, plan.step("find-batch")
    if told is None or step is None or step.search is None:
        return
    ends = f"{_percent(step.search.memory_share)} of the memory or {count(told.largest)}"
    yield "batch", f"doubled from {count(told.start)} until {ends} is reached, then the gap is closed; chosen: {RULE}"
    yield "found on", f"{told.instance_type}: {told.reason}"
    yield "at most", f"{count(told.largest)} per GPU: {told.largest_why}"
    if told.found is not None:
        yield "found", f"{count(told.found.per_gpu)} per GPU, predicted {predicted_text(told)}; this plan is for it"
        return
    later = [other.name for other in plan.steps if other.name != "find-batch"]
    again = f"; {' and '.join(later)} (~) are planned at it, and again with what is found" if later else ""
    yield "predicted", f"{predicted_text(told)}{again}"


def found_facts(result: BatchResult, plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield what a search found, and the estimate beside it."""
    chosen, fastest = result.trial(result.chosen), result.trial(result.fastest)
    peak = "" if chosen.peak_gib is None else f", peak {significant(chosen.peak_gib)} of "
    peak += f"{significant(result.capacity_gib)} GiB" if peak else ""
    which = "the largest safe one" if result.chosen == result.largest else f"largest safe one {count(result.largest)}"
    tries = f"{len(result.trials)} tr{'ies' if len(result.trials) > 1 else 'y'}"
    yield (
        "found batch",
        f"{count(result.chosen)} per GPU ({which}{peak}, {_rate(chosen)}; {tries} from {result.batch.per_gpu})",
    )
    if result.fastest != result.chosen:
        yield "fastest", f"{count(result.fastest)} per GPU, {_rate(fastest)}: not 10 % faster per sample"
    elif result.chosen != result.largest:
        yield "chosen", RULE
    told = plan.find_batch
    if told is None:
        return
    error = memory_error(result, told)
    if isinstance(error, float) and chosen.peak_gib is not None and not isinstance(told.estimated_peak_gib, Unknown):
        pair = f"measured {significant(chosen.peak_gib)} GiB, estimated {significant(told.estimated_peak_gib)} GiB"
        off = f"{significant(100 * abs(error), 2)} % too {'high' if error > 0 else 'low'}"
        yield "memory", f"{pair} at that batch: {off}; batch predicted {predicted_text(told)}"


def tries_table(result: BatchResult) -> Table:
    """Return one row a try, by batch."""
    rows = tuple(
        (
            count(trial.batch) + (" *" if trial.batch == result.chosen else ""),
            _outcome(trial, result),
            "" if trial.peak_gib is None else f"{significant(trial.peak_gib)} GiB",
            "" if trial.step_seconds is None else f"{significant(1000 * trial.step_seconds)} ms",
            "" if trial.samples_per_second is None else significant(trial.samples_per_second),
        )
        for trial in sorted(result.trials, key=lambda trial: trial.batch)
    )
    return Table(("batch per GPU", "outcome", "peak memory", "step", "samples/s"), rows)


def predicted_text(told: FindBatchPlan) -> str:
    """Return the predicted batch, or why there is none."""
    if isinstance(told.predicted, Unknown):
        return f"not known ({told.predicted.unknown})"
    return count(told.predicted)


def memory_error(result: BatchResult, told: FindBatchPlan) -> float | Unknown:
    """Return (estimate - measured) / measured of the peak at the chosen batch; `told` is of the plan made for it."""
    measured = result.measured.peak_gib
    if measured is None:
        return Unknown(unknown="the peak is not measurable here")
    if told.found is None:
        return Unknown(unknown="the run is not planned again yet")
    estimated = told.estimated_peak_gib
    return estimated if isinstance(estimated, Unknown) else (estimated - measured) / measured


def find_batch_document(record: RunRecord) -> dict[str, Any]:
    """Return the part of a run's document that speaks of its batch search; empty where it has none."""
    told, result = record.plan.find_batch, record.batch_found()
    if told is None:
        return {}
    predicted = _known(told.predicted)
    if result is None:
        return {"find_batch": {"unknown": "find-batch has not ended well", "predicted": predicted}}
    error = memory_error(result, told)
    return {
        "find_batch": {
            "chosen": result.chosen,
            "largest": result.largest,
            "fastest": result.fastest,
            "rule": RULE,
            "memory_share": result.search.memory_share,
            "capacity_gib": result.capacity_gib,
            "reserved_gib": result.reserved_gib,
            "device": result.measured.device,
            "predicted": predicted,
            "estimated_peak_gib": _known(told.estimated_peak_gib),
            "memory_error": _known(error),
            "plan_id": record.plan.plan_id,
            "tries": [_try(trial) for trial in result.trials],
        }
    }


def _try(trial: BatchTrial) -> dict[str, Any]:
    did_not = {"unknown": "it did not run"}
    peak: object = trial.peak_gib if trial.peak_gib is not None else _NOT_MEASURABLE
    return {
        "batch": trial.batch,
        "outcome": trial.outcome,
        "peak_gib": peak if trial.outcome == "ran" else did_not,
        "step_seconds": trial.step_seconds if trial.step_seconds is not None else did_not,
        "samples_per_second": trial.samples_per_second if trial.samples_per_second is not None else did_not,
    }


def _known(value: float | Unknown) -> object:
    return {"unknown": value.unknown} if isinstance(value, Unknown) else value


def _outcome(trial: BatchTrial, result: BatchResult) -> str:
    safe = is_safe(trial, result.trials, result.search, result.capacity_gib)
    over = f", over {_percent(result.search.memory_share)}" if trial.outcome == "ran" and not safe else ""
    return trial.outcome.replace("-", " ") + over


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rate(trial: BatchTrial) -> str:
    return f"{significant(trial.samples_per_second or 0.0)} samples/s"
