"""What goes with a learning rate when the batch changes: warm-up, accumulation, regularisation, BatchNorm.

Pure; called by `advice`, whose answer they are parts of. Rules of practice; their standing is in docs/advice.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.planning.batch import BATCHNORM_NEEDS, StepBatch
from gpuplan.workload.schema import MOST_ACCUMULATION
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from gpuplan_job.step_trace import StepTrace

Norm = Literal["batch", "group", "layer", "none", "unknown"]
Verdict = Literal["no", "maybe", "yes", "required"]

NO_WARM_UP_TO, _SHOULD_FROM, _MUST_FROM = 2.0, 8.0, 16.0
"""Batch ratios: up to 2 no warm-up, from 8 there should be one, from 16 there must be."""
_WARM_UP_EPOCHS = 5.0
"""Goyal et al. 2017, of 90."""
_WARM_UP_SHARE = 0.1
"""Of a short training."""
ACCUMULATION_TIME = (1.5, 2.0)
"""Wall time of accumulating over that of the same batch held at once: practice."""
_MOST_DROPOUT = 0.5
_LABEL_SMOOTHING = 0.1


class Updates(Frozen):
    """Optimizer steps and epochs before and after the change."""

    steps_per_epoch: tuple[int, int]
    epochs: tuple[int, int]
    steps: tuple[int, int]


class WarmUp(Frozen):
    """How the LR should rise at first; one-cycle rises over its first 30 % of steps, so it brings its own."""

    verdict: Verdict
    length: str = "5 epochs, at most a tenth of the training"
    epochs: float | Unknown
    steps: int | Unknown


class Accumulation(Frozen):
    """How the new batch is made up, and what accumulating costs."""

    ways: tuple[StepBatch, ...]
    """The advised one first."""
    most: int = MOST_ACCUMULATION
    """Micro-batches per optimizer step."""
    time_factor: tuple[float, float] | None = None
    """Wall time of the advised way over the same batch held at once, where that would have fitted; practice."""
    keep: StepBatch | None = None
    """Where the batch shrinks: the way that holds the old batch at the new per-GPU batch, and so its LR."""


class Change(Frozen):
    """A setting before and after."""

    before: float
    after: float


class Regularisation(Frozen):
    """What keeps a larger batch from fitting the training data too closely."""

    factor: float
    """sqrt(ratio)."""
    weight_decay: Change | Unknown
    dropout: Change | Unknown
    label_smoothing: Change


class BatchNorm(Frozen):
    """Whether BatchNorm sees enough samples: those of one micro-batch on one GPU."""

    norm: Norm
    samples_per_gpu: int | Unknown
    needs: int = BATCHNORM_NEEDS
    verdict: Literal["ok", "small", "not-used", "unknown"]


def count_updates(
    batches: tuple[int, int], way: StepBatch | None, *, samples: int | None, epochs: int | None, keep_steps: bool
) -> Updates | Unknown:
    """Return the optimizer steps at both global `batches`, the second made up as `way`; or what is lacking to count.

    `samples` are those of an epoch, `epochs` those of the training at the first batch; with `keep_steps` the second
    training takes as many epochs as give no fewer steps.
    """
    if samples is None or epochs is None:
        lacking = [flag for flag, value in (("--data or --samples", samples), ("--epochs", epochs)) if value is None]
        return Unknown(unknown=f"give {' and '.join(lacking)}")
    if samples < max(batches):
        return Unknown(unknown=f"{samples} training samples do not fill a batch of {max(batches)}")
    second = way or StepBatch.of(batches[1])
    before = EpochLayout(samples, batches[0], 1, 1).steps
    after = EpochLayout(samples, second.per_gpu, second.world_size, second.accumulation).steps
    then = max(1, math.ceil(epochs * before / after)) if keep_steps else epochs
    return Updates(steps_per_epoch=(before, after), epochs=(epochs, then), steps=(before * epochs, after * then))


def warm_up_verdict(ratio: float, *, large: bool) -> Verdict:
    """Return whether a training whose LR rises by a batch ratio should warm up; `large` is past 8,192.

    A ratio of 1 or less is an LR that does not rise.
    """
    if ratio > 1 and (large or ratio >= _MUST_FROM):
        return "required"
    if ratio >= _SHOULD_FROM:
        return "yes"
    return "maybe" if ratio > NO_WARM_UP_TO else "no"


def warm_up_epochs(epochs: float) -> float:
    """Return the length of a warm-up in epochs: 5 (Goyal et al. 2017, of 90), at most a tenth of the training."""
    return min(_WARM_UP_EPOCHS, _WARM_UP_SHARE * epochs)


def warm_up_steps(length: float, steps_per_epoch: int) -> int:
    """Return the same in optimizer steps, at least one."""
    return max(1, round(length * steps_per_epoch))


def warm_up(ratio: float, epochs: int | None, updates: Updates | Unknown, *, large: bool) -> WarmUp:
    """Return whether and how long to warm up; without `epochs` the length is only a rule."""
    verdict = warm_up_verdict(ratio, large=large)
    if verdict == "no":
        return WarmUp(verdict=verdict, epochs=0.0, steps=0)
    if epochs is None:
        return WarmUp(verdict=verdict, epochs=Unknown(unknown="give --epochs"), steps=Unknown(unknown="give --epochs"))
    length = warm_up_epochs(epochs)
    if isinstance(updates, Unknown):
        return WarmUp(verdict=verdict, epochs=length, steps=updates)
    return WarmUp(verdict=verdict, epochs=length, steps=warm_up_steps(length, updates.steps_per_epoch[1]))


def accumulation(ways: tuple[StepBatch, ...], to_batch: int, ratio: float) -> Accumulation | Unknown:
    """Return how the batch is made up and what that costs, or that no even split makes it up."""
    if not ways:
        return Unknown(
            unknown=f"no even split of {to_batch} over 1, 2, 4 ... GPUs and {MOST_ACCUMULATION} micro-batches"
        )
    advised = ways[0]
    times = round(1 / ratio)
    keep = None
    if ratio < 1 and math.isclose(times * ratio, 1) and advised.accumulation * times <= MOST_ACCUMULATION:
        keep = StepBatch.of(advised.per_gpu, advised.world_size, advised.accumulation * times)
    return Accumulation(ways=ways, time_factor=ACCUMULATION_TIME if advised.accumulation > 1 else None, keep=keep)


def regularisation(ratio: float, weight_decay: float, dropout: float | None, label_smoothing: float) -> Regularisation:
    """Return weight decay and dropout x sqrt(ratio), dropout at most 0.5; label smoothing 0.1 for a larger batch."""
    factor = math.sqrt(ratio)
    decay = weight_decay * factor
    dropped: Change | Unknown = Unknown(unknown="give --dropout P, what the model has today")
    if dropout is not None:
        # A model that already drops more keeps it: the bound is no reason to regularise a larger batch less.
        after = min(dropout * factor, max(_MOST_DROPOUT, dropout))
        dropped = Change(before=dropout, after=after)
    smoothing = max(label_smoothing, _LABEL_SMOOTHING) if ratio > 1 else label_smoothing
    return Regularisation(
        factor=factor,
        weight_decay=Change(before=weight_decay, after=decay)
        if decay < 1
        else Unknown(unknown=f"{weight_decay:g} x {factor:.3g} is past 1: the rule does not reach so far"),
        dropout=dropped,
        label_smoothing=Change(before=label_smoothing, after=smoothing),
    )


def batchnorm(samples_per_gpu: int | None, norm: Norm) -> BatchNorm:
    """Return whether a micro-batch of `samples_per_gpu` is enough; None: not known."""
    seen: int | Unknown = Unknown(unknown="no way to this batch") if samples_per_gpu is None else samples_per_gpu
    if norm not in {"batch", "unknown"}:
        return BatchNorm(norm=norm, samples_per_gpu=seen, verdict="not-used")
    if samples_per_gpu is None:
        return BatchNorm(norm=norm, samples_per_gpu=seen, verdict="unknown")
    return BatchNorm(norm=norm, samples_per_gpu=seen, verdict="small" if samples_per_gpu < BATCHNORM_NEEDS else "ok")


def norm_of(trace: StepTrace | None) -> Norm:
    """Return the normalisation among a step's kernels; BatchNorm, whose statistics the batch sets, before others."""
    if trace is None:
        return "unknown"
    names = " ".join(trace.operations.name)
    return next((norm for norm, kernel in _NORM_KERNELS if kernel in names), "none")


_NORM_KERNELS: tuple[tuple[Norm, str], ...] = (
    ("batch", "batch_norm"),
    ("group", "group_norm"),
    ("layer", "layer_norm"),
)
