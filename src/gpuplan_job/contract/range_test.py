"""The LR range test: what a job is told of it and the curves it leaves, with what the job itself made of them.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gpuplan_job.contract.workload import BatchSpec, Measured, Precision, WorkloadSpec
from gpuplan_job.document import ContractError, Document

StopReason = Literal["completed", "diverged", "non-finite"]


@dataclass(frozen=True)
class LrTarget:
    """The training that a learning rate is looked for, and how it is to be arrived at."""

    rule: str
    """Name of the rule that reads the curve."""
    transfer: str
    """Name of the policy that carries the LR from the range test's batch to the training's."""
    global_batch: int
    """Samples per optimizer step of the training."""
    steps: int
    """T: optimizer steps of the training."""
    fixed: Literal["epochs", "steps"] = "epochs"
    """What of the training stays when its batch changes."""


@dataclass(frozen=True)
class SweepAt:
    """More sweeps, at another batch than the range test's own."""

    batch: BatchSpec
    """On one device: `accumulation` micro-batches stand for as many GPUs."""
    runs: int
    iterations: int
    reference_steps: int
    """T: optimizer steps of the whole training at this batch."""


@dataclass(frozen=True)
class SweepSpec:
    """An LR range test: `runs` geometric sweeps of `iterations` optimizer steps from `lr_min` to `lr_max`."""

    runs: int
    iterations: int
    lr_min: float
    lr_max: float
    reference_steps: int
    """T: optimizer steps the whole training would take on one GPU at the sweep's own batch.
    Rules normalise by iterations / T; the transfer policy then goes from that one GPU to all of them."""
    noise_micro_batches: int
    """Micro-batches at frozen weights for the gradient noise scale; 0 skips the measurement."""
    target: LrTarget
    check: SweepAt | None = None
    """The training's own global batch by accumulation: the same update that its GPUs will make."""
    compare: list[SweepAt] = field(default_factory=list)
    """Other batches to put beside the range test's own."""

    def own(self, batch: BatchSpec) -> SweepAt:
        """Return the sweeps at the range test's own batch in the form of the others."""
        return SweepAt(batch, self.runs, self.iterations, self.reference_steps)

    @property
    def others(self) -> list[SweepAt]:
        """The sweeps at other batches, in the order in which they run."""
        return [*([] if self.check is None else [self.check]), *self.compare]

    @property
    def optimizer_steps(self) -> int:
        """Most optimizer steps of all sweeps together."""
        return self.runs * self.iterations + sum(at.runs * at.iterations for at in self.others)

    def samples(self, batch: BatchSpec) -> int:
        """Return the most samples that all sweeps take; `batch` is the range test's own."""
        return sum(at.runs * at.iterations * at.batch.global_batch for at in (self.own(batch), *self.others))

    def own_steps(self, batch: BatchSpec) -> float:
        """Return what all sweeps take, in optimizer steps at the range test's own batch: as many samples."""
        return self.samples(batch) / batch.global_batch


@dataclass(frozen=True)
class Curve:
    """One sweep: `losses[i]` is the training loss of optimizer step i, taken at `learning_rates[i]`.

    Only finite losses are kept: a sweep that met NaN or Infinity ends one point before it.
    """

    learning_rates: list[float]
    losses: list[float]
    stop_reason: StopReason
    stopped_at_lr: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if len(self.learning_rates) != len(self.losses):
            raise ContractError("Curve: learning_rates and losses differ in length")
        if any(b <= a for a, b in zip(self.learning_rates, self.learning_rates[1:], strict=False)):
            raise ContractError("Curve: learning_rates must increase")
        if any(lr <= 0 for lr in self.learning_rates):
            raise ContractError("Curve: learning_rates must be positive")


@dataclass(frozen=True)
class NoiseScale:
    """Gradient noise scale, McCandlish et al. 2018, appendix A: B_noise = trace_covariance / squared_gradient."""

    squared_gradient: float
    """|G|^2, unbiased; may come out negative from few micro-batches."""
    trace_covariance: float
    """tr(Sigma), unbiased, per sample."""
    micro_batches: int
    micro_batch_size: int

    @property
    def samples(self) -> float | None:
        """B_noise in samples, or None where the measurement carries no signal."""
        signal = self.squared_gradient > 0 and self.trace_covariance >= 0
        ratio = self.trace_covariance / self.squared_gradient if signal else math.inf
        return ratio if math.isfinite(ratio) else None


@dataclass(frozen=True)
class BatchSweeps:
    """The sweeps of a `SweepAt`."""

    at: SweepAt
    curves: list[Curve]


@dataclass(frozen=True)
class Decision:
    """What was made of a range test: a learning rate for the training, or the verdict that there is none.

    Computed by the job and again by the client, to the same bits. Learning rates carry four significant digits.
    """

    verdict: Literal["ok", "flat", "diverged", "noisy"]
    rule: str
    transfer: str
    learning_rate: float | None = None
    """Suggested for one GPU at the range test's batch."""
    band: tuple[float, float] | None = None
    """Lowest and highest pick of the single sweeps."""
    divergence_lr: float | None = None
    """Smallest LR at which a sweep blew up; None: none did."""
    noise_scale: float | None = None
    """Gradient noise scale in samples."""
    multiplier: float | None = None
    training_learning_rate: float | None = None
    by_policy: dict[str, float] = field(default_factory=dict)
    """What each transfer policy that can say makes of it: the training's learning rate."""
    checked_learning_rate: float | None = None
    """What the sweeps at the training's own global batch gave; None where there were none or they gave nothing."""
    reason: str = ""
    """Why there is no suggestion."""
    fix: str = ""
    note: str = ""
    """What the transfer policy has to say, such as a fall-back it took."""
    warning: str = ""
    """Policy and check disagree."""


UNDECIDED = Decision("noisy", "", "", reason="nothing was decided yet")
"""Stands in a result until its curves are judged."""


@dataclass(frozen=True)
class LrResult(Document):
    """What an LR range test found, the conditions it holds under, and what the job made of it."""

    SCHEMA: ClassVar[str] = "gpuplan.lr-result/2"

    run_id: str
    step: str
    attempt: int
    input_sha256: str
    workload: WorkloadSpec
    """With `batch`, `sweep` and `precision` the conditions: under others the curves say nothing."""
    sweep: SweepSpec
    batch: BatchSpec
    precision: Precision
    """The one in effect on the device."""
    curves: list[Curve]
    noise_scale: NoiseScale | None
    check: BatchSweeps | None
    compared: list[BatchSweeps]
    decision: Decision
    measured: Measured
    versions: dict[str, str]
    chance_loss: float | None = None
    """Loss of always answering with the frequencies of the classes among the sweeps' own targets, in nats: a network
    that learns nothing comes down to it. None where it is not known."""
    own_optimizer: Literal["sgd", "adamw"] | None = None
    """What rules take the optimizer for that the user's module configures; None where it is the workload's."""

    @property
    def optimizer(self) -> str:
        """What rules know the optimizer as."""
        return self.own_optimizer or self.workload.optimizer
