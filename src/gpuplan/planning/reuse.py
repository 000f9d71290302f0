"""A learning rate from another run's stored range test, if it was made under this run's conditions. Pure.

Called by the pipelines. The rule and the transfer policy are applied anew, to this run's own batch: another number of
GPUs or another instance is what carrying over is for. Nothing else may differ.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from gpuplan.core.errors import NoResultError, UsageError
from gpuplan.core.frozen import Frozen
from gpuplan.planning.placement import device
from gpuplan.planning.range_test import ACCUMULATE, reference_steps, target_of
from gpuplan_job.contract import DataDescription, Decision, LrResult
from gpuplan_job.decision import decide
from gpuplan_job.precision import effective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.inputs import PlanInputs

_WORKLOAD = {
    "model": "--model",
    "model_args": "--model-args",
    "data": "--data",
    "data_args": "--data-args",
    "image_size": "--image-size",
    "optimizer": "--optimizer",
    "momentum": "--momentum",
    "weight_decay": "--weight-decay",
    "decay_norms": "--decay-norms",
    "clip_norm": "--clip-norm",
    "label_smoothing": "--label-smoothing",
    "schedule": "--schedule",
    "seed": "--seed",
}
"""Settings that a range test depends on, with their flags.

The seed is among them: noise scale and first sweep were taken at the weights that it draws, so that a run with another
one is another experiment. `workers` is not, it changes no figure; `epochs` and the batch count through T and the batch.
"""
_DATA = ("train_samples", "channels", "height", "width", "classes")
"""What a data set must still be where its name is the same: a folder may have been filled since. Validation data and
stored bytes touch no training step."""


class LrSource(Frozen):
    """A stored range test, whole, so that a plan that uses it can be made again anywhere."""

    run_id: str
    data: DataDescription
    """As that run was planned with."""
    result: dict[str, Any]
    """The LrResult's document."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.measured()
        return self

    def measured(self) -> LrResult:
        """Return the range test."""
        return LrResult.from_json(json.dumps(self.result))


class ReusedLr(Frozen):
    """A plan's learning rate that another run's range test led to."""

    run_id: str
    decision: Decision
    """For this plan's training."""


def reused(inputs: PlanInputs, batches: BatchPlan) -> ReusedLr | None:
    """Return the learning rate that the stored range test of another run gives this one; None where none was named.

    Raises:
        UsageError: a learning rate was given as well, or the range test was made under other conditions.
        NoResultError: its curves give no learning rate by this run's rule.
    """
    source = inputs.lr_source
    if source is None:
        return None
    name = f"--lr-from {source.run_id}"
    if inputs.settings.lr.learning_rate is not None:
        raise UsageError(
            f"{name} and --lr {inputs.settings.lr.learning_rate:g}: both say what the learning rate is",
            fix=f"drop one of them; gpuplan suggest {source.run_id} shows what the first would be",
        )
    result = source.measured()
    different = list(_differences(inputs, batches, source, result))
    if different:
        raise UsageError(
            f"{name}: its range test was made under other conditions",
            why="; ".join(different),
            fix="drop --lr-from, and lr-find runs for this training; or make the conditions equal; or decide yourself: "
            f"gpuplan suggest {source.run_id}    then --lr VALUE",
        )
    decision = decide(result, target_of(inputs, batches))
    if decision.verdict != "ok":
        raise NoResultError(
            f"{name}: its range test gives no learning rate by rule {decision.rule}: {decision.verdict}",
            why=decision.reason,
            fix=f"gpuplan suggest {source.run_id}    or drop --lr-from",
        )
    return ReusedLr(run_id=source.run_id, decision=decision)


def _differences(inputs: PlanInputs, batches: BatchPlan, source: LrSource, result: LrResult) -> Iterator[str]:
    """Yield each condition that differs, with both values."""
    workload, settings = inputs.settings.workload, inputs.settings.lr
    for name, flag in _WORKLOAD.items():
        yield from _pair(flag, getattr(result.workload, name), getattr(workload, name))
    for name in _DATA:
        yield from _pair(f"the data's {name.replace('_', ' ')}", getattr(source.data, name), getattr(inputs.data, name))
    # What ran counts: a CPU that was asked for 16-mixed took bf16-mixed.
    yield from _pair("precision", result.precision, effective(workload.precision, device(inputs)))
    own = batches.lr_find
    yield from _pair(
        "batch per GPU x accumulated",
        f"{result.batch.per_gpu} x {result.batch.accumulation}",
        f"{own.per_gpu} x {own.accumulation}",
    )
    yield from _pair("T, optimizer steps on one GPU", result.sweep.reference_steps, reference_steps(inputs, batches))
    # A sweep that was asked for is a condition; one that is left to its design is not.
    for flag, made, asked in (
        ("--lr-iterations", result.sweep.iterations, settings.iterations),
        ("--lr-min", result.sweep.lr_min, settings.lr_min),
        ("--lr-max", result.sweep.lr_max, settings.lr_max),
    ):
        if asked is not None:
            yield from _pair(flag, made, asked)
    if result.sweep.runs < settings.runs:
        yield from _pair("--runs", result.sweep.runs, settings.runs)
    yield from _others(inputs, batches, result)


def _others(inputs: PlanInputs, batches: BatchPlan, result: LrResult) -> Iterator[str]:
    """Yield what was asked for at other batches and was not made there."""
    settings, target, spec = inputs.settings.lr, target_of(inputs, batches), result.sweep
    needed = settings.check or target.transfer == ACCUMULATE
    if needed and result.batch.global_batch != target.global_batch:
        here = f"batch {target.global_batch}, {target.steps} steps"
        at = spec.check
        yield from _pair("check", f"batch {at.batch.global_batch}, {at.reference_steps} steps" if at else "none", here)
    made = [at.batch.global_batch for at in (spec.own(result.batch), *spec.compare)]
    if missing := [batch for batch in settings.compare_batches if batch not in made]:
        yield from _pair("--compare-batches", made, missing)


def _pair(what: str, there: object, here: object) -> Iterator[str]:
    if there != here:
        yield f"{what}: {_shown(there)} there, {_shown(here)} here"


def _shown(value: object) -> str:
    return "the data's own" if value is None else str(value)
