"""The plan: what will run, where, on which batch, for how long and how much. Immutable, and identified by its content.

Pipelines build it, the engine follows it, reports print it. It holds no handle, no state and no request.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan.own_code.code_package import CheckedCode, CodePackage
from gpuplan.planning.advice.critical_batch import GpuOption
from gpuplan.planning.batch import BatchPlan, StepBatch
from gpuplan.planning.checkpointing import Checkpoints
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Alternative, Charge, Cost, Rate
from gpuplan.planning.reuse import LrSource, ReusedLr
from gpuplan.planning.speed.data_transfer import S3Data
from gpuplan.planning.speed.throughput import Hours
from gpuplan.planning.warm_up import WarmUpPlan
from gpuplan.profiles.prices import LivePrices
from gpuplan.workload.schema import Settings
from gpuplan_job.contract import BatchSearchSpec, DataDescription, SweepSpec, WorkloadSpec

LifecycleState = Literal["current", "previous-generation", "retired"]
StepName = Literal["find-batch", "lr-find", "train"]


LONGEST_SECONDS = 28 * 24 * SECONDS_PER_HOUR
"""SageMaker's own limit of a training job."""


class Limits(Frozen):
    """What AWS ends a job at, and the disk it gets."""

    max_runtime_seconds: int = Field(ge=1, le=LONGEST_SECONDS)
    """Running time, all restarts of a spot job together."""
    max_wait_seconds: int | None = None
    """Spot only: running and waiting time together."""
    volume_gb: int = Field(ge=1)


class PlanWarning(Frozen):
    """Something the user should know before paying."""

    code: str
    message: str
    fix: str


class StepPlan(Frozen):
    """One step of a pipeline on one machine."""

    name: StepName
    instance_type: str
    instances: int = 1
    gpus: int
    """Processes, one a GPU, over all instances."""
    gpu_model: str | None = None
    """Such as `A10G`."""
    spot: bool
    compute_capability: str | None = None
    """Of the GPU, such as `8.6`; None where it is no NVIDIA GPU."""
    local_storage_gb: int | None = None
    """Of an instance with disks of its own."""
    s3_data: S3Data | None = None
    """How data on S3 reach the job; None where they lie elsewhere."""
    batch: StepBatch
    optimizer_steps: int
    sweep: SweepSpec | None = None
    """Set for lr-find only."""
    search: BatchSearchSpec | None = None
    """Set for find-batch only."""
    tries: tuple[int, ...] = ()
    """Batches that find-batch is expected to try, in order; none where the memory of a step is not known."""
    memory: MemoryEstimate | Unknown
    time_hours: Hours | Unknown
    bound: str | None = None
    """What limits the speed: compute, data loading, all-reduce or start-up."""
    samples_per_second: float | Unknown
    """Over all GPUs, start-up left out."""
    startup_minutes: tuple[float, float]
    """Billed minutes before the first step, p50 and p90."""
    measured_scale: float | None = None
    """Seconds of a training step of the full batch (of all steps over as many full ones while it grows), with its share
    of validation, per second of a measured finder step, both without the wait for data; None: lr-find runs on another
    GPU."""
    workers: int = 0
    """Data-loading processes beside each training process; 0: it loads by itself."""
    workers_why: str = ""
    """Where that number comes from, in words that follow it."""
    loading_seconds: float = 0.0
    """Seconds that loading the data of such a step takes beside the GPUs, with its share of validation."""
    rate_usd_per_hour: Rate | Unknown
    """Of one instance."""
    cost_usd: Cost | Unknown
    """Of the instances, start-up included."""
    charges: tuple[Charge, ...] = ()
    """All that AWS bills for the step, line by line, the instances among them."""
    checkpoints: Checkpoints | None = None
    """When the training saves its state; None for a step that has none to save."""
    alternatives: tuple[Alternative, ...] = ()
    """Prices of the training's instances on either service, on demand and spot."""
    limits: Limits | None = None
    """What AWS ends the job at; None where the backend enforces nothing."""


class TotalCost(Cost):
    """US dollars of all steps: their instances, and what else is known of what the run is billed.

    The worst case is what the limits sent with the jobs allow their instances to cost.
    """

    worst_case: Decimal | Unknown


class Total(Frozen):
    """Sums over the steps."""

    time_hours: Hours | Unknown
    cost_usd: TotalCost | Unknown


class FinderPlan(Frozen):
    """Where lr-find runs and why, beside what it would cost on the training's whole instance."""

    instance_type: str
    gpu: str
    same_gpu: bool
    """Whether it is the training's GPU, so that measured memory and speed carry over."""
    reason: str
    """In words, to follow the instance type."""
    naive_instance_type: str
    """The training's."""
    naive_cost_usd: Cost | Unknown
    """Of the same range test on one GPU of that instance, the others idle."""
    profile: str
    """The profile whose figures and prices count for lr-find."""


class FoundBatch(Frozen):
    """What find-batch measured, as far as a plan depends on it: with it the plan can be made again."""

    per_gpu: int
    """The batch of the next steps."""
    start: int
    """The batch that the search started from: `per_gpu_batch` of the settings before it was found."""
    peak_gib: float | None = None
    """Of a training process at that batch; None: not measurable."""


class FindBatchPlan(Frozen):
    """How the run's batch comes about: looked for on one GPU of the training's kind, until then predicted."""

    instance_type: str
    reason: str
    """Why there, in words that follow the instance type."""
    start: int
    predicted: int | Unknown
    """Per-GPU batch that the search would find if the memory model were right; other steps are planned at it."""
    largest: int
    largest_why: str
    """Why no larger one is tried, in words that follow the number."""
    estimated_peak_gib: float | Unknown
    """Of the memory model at the batch that this plan is made for: against it find-batch's measurement is held."""
    found: FoundBatch | None = None
    """None: the search has not run, and what is planned for later steps is provisional."""


class LrPlan(Frozen):
    """How the learning rate comes about: given, or found by `rule` and carried over by `transfer`."""

    rule: str
    transfer: str
    transfer_why: str = ""
    """Why that policy, in words that follow its name."""
    fixed: Literal["epochs", "steps"] = "epochs"
    """What of the training stays when its batch changes."""
    check: bool = False
    """Whether lr-find also sweeps at the training's own global batch."""
    runs: int
    iterations: int | None = None
    """Optimizer steps of one sweep; None where the learning rate is given."""
    learning_rate: float | None = None
    """Known before the run starts: given, or `reused`."""
    reused: ReusedLr | None = None
    """What another run's range test gave this plan; None where the learning rate is given or still to be found."""
    warmup: WarmUpPlan | None = None
    """None in plans of versions that had none."""
    shares: tuple[float, ...] = ()
    """Of the learning rate in each epoch, while the global batch grows; empty where it does not."""


class Provenance(Frozen):
    """What the plan was computed from: a plan whose sources have changed is stale."""

    gpuplan_version: str
    payload_sha256: str
    """Of the code that will run in the job."""
    profile_sha256: str
    finder_profile_sha256: str | None = None
    """Of the profile that lr-find's instance is from, where AWS bills it."""
    settings: Settings
    live_prices: LivePrices | None = None
    """What AWS answered to `--live-prices`: with it the plan can be made again on another day."""
    found_batch: FoundBatch | None = None
    """What find-batch measured, once it has."""
    lr_source: LrSource | None = None
    """The range test that `--lr-from` named: with it the plan can be made again on another machine."""
    code: CodePackage | None = None
    """The user's own code, which the jobs run; None where model and data are gpuplan's kinds."""
    unchecked: str | None = None
    """Why that code was not checked, where it was not: no job runs it then."""


class LaunchPlan(Frozen):
    """A whole run before it starts."""

    schema_name: Literal["gpuplan.plan/1"] = Field(default="gpuplan.plan/1", alias="schema")
    pipeline: str
    instance: str
    gpu: str
    backend: str
    region: str
    device: Literal["auto", "cuda", "mps", "cpu"]
    lifecycle: LifecycleState
    substitutes: tuple[str, ...] = ()
    workload: WorkloadSpec
    data: DataDescription
    checked: CheckedCode | None = None
    """What the check of the user's own code has shown; None where there is no such code, or no check."""
    batch: BatchPlan
    steps: tuple[StepPlan, ...]
    total: Total
    lr: LrPlan
    gpu_options: tuple[GpuOption, ...] = ()
    """The training on other numbers of GPUs, for the advice after lr-find; none where it does not run."""
    find_batch: FindBatchPlan | None = None
    """None where the batch is given."""
    finder: FinderPlan | None = None
    """None where lr-find has no instance to choose."""
    warnings: tuple[PlanWarning, ...]
    provenance: Provenance

    @property
    def plan_id(self) -> str:
        """The sha256 of the plan's canonical JSON."""
        return self.digest()

    @property
    def billed(self) -> bool:
        """Whether AWS bills it: the backends that send limits are those that it bills."""
        return any(step.limits for step in self.steps)

    def step(self, name: str) -> StepPlan | None:
        """Return the step of that name, None if the pipeline has none."""
        return next((step for step in self.steps if step.name == name), None)
