"""What a change of batch means: learning rate by each rule, warm-up, accumulation, regularisation, BatchNorm.

Called by `gpuplan advise`. Pure. Learning rates come from `gpuplan_job.transfer`, the policies a training uses; rules
of practice and their sources: docs/advice.md. It must not hold a second formula for what a policy computes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.planning.advice import critical_batch as critical
from gpuplan.planning.advice import sources as cited
from gpuplan.planning.advice.batch_ways import Machine, require_reachable, ways
from gpuplan.planning.advice.parts import (
    Accumulation,
    BatchNorm,
    Norm,
    Regularisation,
    Updates,
    WarmUp,
    accumulation,
    batchnorm,
    count_updates,
    regularisation,
    warm_up,
)
from gpuplan.planning.advice.sources import Accuracy, Source
from gpuplan.planning.batch import LARGE_BATCH, StepBatch
from gpuplan.planning.range_test import ACCUMULATE
from gpuplan.workload.schema import Workload as WorkloadSettings
from gpuplan_job import sweep_design, transfer
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

_FINETUNING_BATCH = (16, 32)
_FINETUNING_SHARE = 0.1
_MOST_BATCH = 10_000_000
_DEFAULT_DECAY: float = WorkloadSettings.model_fields["weight_decay"].default
_DEFAULT_SMOOTHING: float = WorkloadSettings.model_fields["label_smoothing"].default


class Question(Frozen):
    """A training that is known at one global batch and is to run at another."""

    from_batch: int = Field(ge=1, le=_MOST_BATCH)
    """Samples per optimizer step at which the learning rate is known."""
    to_batch: int = Field(ge=1, le=_MOST_BATCH)
    learning_rate: float = Field(gt=0, le=1000)
    """At `from_batch`."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    fixed: Literal["epochs", "steps"] = "epochs"
    """What the training keeps when its batch changes."""
    noise_scale: float | None = Field(default=None, ge=0, le=1e12)
    """Gradient noise scale in samples; None: not measured."""
    machine: Machine = Machine()
    per_gpu_batch: int | None = Field(default=None, ge=1, le=1_000_000)
    epochs: int | None = Field(default=None, ge=1, le=100_000)
    """Of the training at `from_batch`."""
    samples: int | None = Field(default=None, ge=1, le=10**12)
    """Training samples of an epoch."""
    weight_decay: float = Field(default=_DEFAULT_DECAY, ge=0, lt=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    label_smoothing: float = Field(default=_DEFAULT_SMOOTHING, ge=0, lt=1)
    norm: Norm = "unknown"
    finetune: bool = False


class LrRule(Frozen):
    """One transfer policy, applied to the change."""

    policy: str
    multiplier: float | Unknown
    holds: str
    """Where it is right, and by whom."""
    note: str | None = None
    """What the policy has to say of this change."""


class Chosen(Frozen):
    """The learning rate to train with, and the policy it comes from."""

    policy: str
    learning_rate: float
    multiplier: float
    why: str


class ToSameLoss(Frozen):
    """What the larger batch takes to the same loss, over what the smaller took (McCandlish et al. 2018)."""

    steps_factor: float
    samples_factor: float


class LargeBatch(Frozen):
    """Whether the global batch is past what SGD and Adam are known to take."""

    limit: int = LARGE_BATCH
    exceeded: bool
    optimizer: str
    """Layer-wise counterpart of the optimizer in use."""


class FineTuning(Frozen):
    """What changes where weights are pre-trained."""

    batch: tuple[int, int] = _FINETUNING_BATCH
    learning_rate: float
    """To start from at the new batch, if the given one was found for training from scratch."""
    in_range: bool
    """Whether the new batch is one that is usual."""


class Advice(Frozen):
    """All there is to say on one change of batch."""

    schema_name: Literal["gpuplan.advice/1"] = Field(default="gpuplan.advice/1", alias="schema")
    from_batch: int
    to_batch: int
    ratio: float
    optimizer: str
    fixed: Literal["epochs", "steps"]
    machine: Machine | None = None
    """Where the number of GPUs is known."""
    noise_scale: float | Unknown
    learning_rate: dict[str, float | Unknown]
    """By policy, hyphens as underscores."""
    rules: tuple[LrRule, ...]
    chosen: Chosen
    to_same_loss: ToSameLoss | Unknown
    critical_batch: critical.CriticalBatch | Unknown
    """What 1, 2, 4 ... GPUs take to the loss of the training at `from_batch`."""
    updates: Updates | Unknown
    warmup: WarmUp
    accumulation: Accumulation | Unknown
    regularisation: Regularisation
    batchnorm: BatchNorm
    large_batch: LargeBatch
    finetuning: FineTuning | None = None
    accuracy_gap: tuple[Accuracy, ...]
    """What a larger batch alone cost where it was tried; none for a smaller one."""
    sources: tuple[Source, ...]


def advise(question: Question, options: Sequence[critical.GpuOption] = ()) -> Advice:
    """Return what the change of batch means; `options` are the training on several numbers of GPUs, where known.

    Raises:
        UsageError: the per-GPU batch and GPUs that were named cannot make up the new batch.
    """
    change = Transfer(question.from_batch, question.to_batch, question.noise_scale)
    # One policy goes by a range test at the new batch, and here there is none.
    names = [name for name in transfer.names() if name != ACCUMULATE]
    rules = tuple(sorted((_rule(name, change) for name in names), key=_distance))
    require_reachable(question.to_batch, question.machine, question.per_gpu_batch)
    found = ways(question.to_batch, question.from_batch, question.machine, question.per_gpu_batch)
    micro_batch = found[0].per_gpu if found else None
    chosen = _chosen(question, change)
    batches = (question.from_batch, question.to_batch)
    updates = count_updates(
        batches,
        found[0] if found else None,
        samples=question.samples,
        epochs=question.epochs,
        keep_steps=question.fixed == "steps",
    )
    large = question.to_batch > LARGE_BATCH
    norm = batchnorm(micro_batch, question.norm)
    return Advice(
        from_batch=question.from_batch,
        to_batch=question.to_batch,
        ratio=change.ratio,
        optimizer=question.optimizer,
        fixed=question.fixed,
        machine=None if question.machine.gpus is None else question.machine,
        noise_scale=_unmeasured() if question.noise_scale is None else question.noise_scale,
        learning_rate={
            rule.policy.replace("-", "_"): _times(question.learning_rate, rule.multiplier) for rule in rules
        },
        rules=rules,
        chosen=chosen,
        to_same_loss=_to_same_loss(change),
        critical_batch=_critical_batch(question, found, updates, options),
        updates=updates,
        warmup=warm_up(change.ratio if chosen.multiplier > 1 else 1, question.epochs, updates, large=large),
        accumulation=accumulation(found, question.to_batch, change.ratio),
        regularisation=regularisation(change.ratio, question.weight_decay, question.dropout, question.label_smoothing),
        batchnorm=norm,
        large_batch=LargeBatch(exceeded=large, optimizer="LARS" if question.optimizer == "sgd" else "LAMB"),
        finetuning=_finetuning(question, chosen) if question.finetune else None,
        accuracy_gap=cited.GAP if change.ratio > 1 else (),
        sources=tuple(_sources(question, large=large, few=norm.verdict == "small")),
    )


def default_policy() -> str:
    """Return the transfer policy that a run uses where the user names none."""
    return sweep_design.POLICIES["epochs"]


def _unmeasured() -> Unknown:
    return Unknown(
        unknown="not measured: gpuplan launch --pipeline lr with your model and data measures it on one GPU; "
        "then --noise-scale SAMPLES"
    )


def _rule(name: str, change: Transfer) -> LrRule:
    policy = transfer.load(name)
    guessed = name == "noise-scale" and change.noise_scale is None and change.ratio != 1
    note = policy.note(change)
    return LrRule(
        policy=name,
        multiplier=_unmeasured() if guessed else policy.multiplier(change),
        holds=cited.HOLDS.get(name, note or "see its file in gpuplan_job/transfer"),
        note=note,
    )


def _distance(rule: LrRule) -> float:
    """Return how far a rule moves the LR, either way: rules are listed from the one that keeps it on."""
    return math.inf if isinstance(rule.multiplier, Unknown) else abs(math.log(rule.multiplier))


def _times(learning_rate: float, multiplier: float | Unknown) -> float | Unknown:
    return multiplier if isinstance(multiplier, Unknown) else learning_rate * multiplier


def _chosen(question: Question, change: Transfer) -> Chosen:
    """Return the rule for what the training fixes: with fixed steps none, else what gpuplan applies by default."""
    if question.fixed == "steps":
        name, why = "none", "with the number of steps fixed, the batch changes only how many samples each step averages"
    else:
        name, why = (
            default_policy(),
            "gpuplan's default: the least regret of all that were measured on 2, 4 and 8 GPUs",
        )
    if change.ratio == 1:
        why = "the batch does not change, and every rule keeps the LR"
    multiplier = transfer.load(name).multiplier(change)
    return Chosen(policy=name, learning_rate=question.learning_rate * multiplier, multiplier=multiplier, why=why)


def _to_same_loss(change: Transfer) -> ToSameLoss | Unknown:
    """Return steps and samples to the same loss at the new batch over those at the old.

    Steps go with 1 + Bn / B and samples with 1 + B / Bn, each batch B at its own best LR.
    """
    noise = change.noise_scale
    if noise is None:
        return _unmeasured()
    samples = (noise + change.batch_to) / (noise + change.batch_from)
    return ToSameLoss(steps_factor=samples / change.ratio, samples_factor=samples)


def _critical_batch(
    question: Question, found: Sequence[StepBatch], updates: Updates | Unknown, options: Sequence[critical.GpuOption]
) -> critical.CriticalBatch | Unknown:
    """Return what numbers of GPUs take to the loss of the training at the old batch, without machines where none are.

    The per-GPU batch is that of the advised way to the new batch.
    """
    if question.noise_scale is None:
        return _unmeasured()
    if not options and not found:
        return Unknown(unknown="no way to this batch")
    reference = critical.Reference(
        batch=question.from_batch,
        steps=updates if isinstance(updates, Unknown) else updates.steps[0],
        examples=updates if isinstance(updates, Unknown) else (question.samples or 0) * (question.epochs or 0),
    )
    return critical.critical_batch(question.noise_scale, options or critical.without_machines(found[0]), reference)


def _finetuning(question: Question, chosen: Chosen) -> FineTuning:
    low, high = _FINETUNING_BATCH
    return FineTuning(learning_rate=chosen.learning_rate * _FINETUNING_SHARE, in_range=low <= question.to_batch <= high)


def _sources(question: Question, *, large: bool, few: bool) -> list[Source]:
    """Return the publications that bear on this change, the rules' own first."""
    adaptive = [cited.MALLADI] if question.optimizer == "adamw" else []
    found = [cited.GOYAL, cited.HOFFER, cited.MCCANDLISH, cited.SMITH, *adaptive, cited.WANG]
    if question.to_batch > question.from_batch:
        found += [cited.KESKAR, cited.SZEGEDY]
    if large:
        found.append(cited.YOU)
    if few:
        found.append(cited.WU)
    if question.finetune:
        found.append(cited.DEVLIN)
    return found
