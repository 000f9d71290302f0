"""The steps a pipeline is made of, planned: searches on one GPU, train on all. Pure; called by the pipelines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning import step_times
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.checked_code import optimizer_kept
from gpuplan.planning.checkpointing import checkpoints
from gpuplan.planning.finder import Finder, Option, choose
from gpuplan.planning.limits import disk_gb
from gpuplan.planning.memory import estimate as memory
from gpuplan.planning.money.cost import cost
from gpuplan.planning.placement import (
    Placement,
    place_finders,
    place_on_one_gpu_of_training,
    place_training,
    service,
)
from gpuplan.planning.plan import FinderPlan, StepPlan
from gpuplan.planning.range_test import range_test
from gpuplan_job.batch_search import TIMED_STEPS, WARM_UP_STEPS

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.find_batch import ExpectedSearch
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.speed import throughput
    from gpuplan_job.contract import BatchSearchSpec, SweepSpec


def lr_find_step(inputs: PlanInputs, batches: BatchPlan, finder: Finder) -> StepPlan:
    """Return the planned LR range test on one GPU."""
    sweep = range_test(inputs, batches)
    found = finder.option
    work = _Work(batches.lr_find, sweep.optimizer_steps, sweep=sweep)
    return _step_plan(inputs, found.place, work, found.time)


def find_batch_step(
    inputs: PlanInputs, place: Placement, search: BatchSearchSpec, start: int, expected: ExpectedSearch
) -> StepPlan:
    """Return the planned batch search, from `start`, with its expected tries, memory and time."""
    work = _Work(StepBatch.of(start), len(expected.tries) * (WARM_UP_STEPS + TIMED_STEPS), search=search)
    planned = _step_plan(inputs, place, work, expected.time)
    return planned.model_copy(update={"memory": expected.memory, "tries": expected.tries})


def training_memory(
    inputs: PlanInputs, place: Placement, batch: StepBatch, memory_mib: int
) -> memory.MemoryEstimate | Unknown:
    """Return the memory of a training process on a GPU like the place's, of which it may use `memory_mib`."""
    return _memory(inputs, replace(place, memory_mib=memory_mib), batch, loop="lightning")


def finder_plan(inputs: PlanInputs, batches: BatchPlan, found: Finder) -> FinderPlan | None:
    """Return where lr-find runs and why, with the cost on the whole instance of the training; None without AWS."""
    if service(inputs) is None:
        return None
    training = place_training(inputs)
    naive = place_on_one_gpu_of_training(inputs)
    time = step_times.range_test_time(inputs, naive, batches)
    return FinderPlan(
        instance_type=found.place.instance_type,
        gpu=found.place.gpu.model,
        same_gpu=found.place.gpu == training.gpu,
        reason=found.reason,
        naive_instance_type=naive.instance_type,
        naive_cost_usd=cost(naive.rate, time if isinstance(time, Unknown) else time.hours),
        profile=found.place.profile.name,
    )


def train_step(
    inputs: PlanInputs, batches: BatchPlan, finder: Finder | None = None, place: Placement | None = None
) -> StepPlan:
    """Return the planned training, by default on all GPUs of its instances, else on those of another `place`.

    `finder` is what its lr-find runs on, None where the learning rate is given.
    """
    place = place or place_training(inputs)
    same_gpu = finder is not None and finder.place.gpu == place.gpu
    work = _Work(
        batches.train,
        batches.steps,
        measured_scale=step_times.measured_scale(inputs, batches, finder.place, place) if finder and same_gpu else None,
        loading_seconds=step_times.loading_seconds(inputs, batches, place),
        spot=_spot(inputs),
    )
    return _step_plan(inputs, place, work, step_times.training_time(inputs, place, batches))


@dataclass(frozen=True)
class _Work:
    """What sets one step apart from the other."""

    batch: StepBatch
    optimizer_steps: int
    sweep: SweepSpec | None = None
    search: BatchSearchSpec | None = None
    measured_scale: float | None = None
    loading_seconds: float = 0.0
    spot: bool = False


def _largest(inputs: PlanInputs, own: StepBatch) -> StepBatch:
    """Return the batch of lr-find that needs most memory: one to compare may be larger than its own."""
    most = max((own.per_gpu, *inputs.settings.lr.compare_batches))
    return own if most == own.per_gpu else StepBatch.of(most)


def _spot(inputs: PlanInputs) -> bool:
    """Return whether the training runs on spot capacity.

    Raises:
        UsageError: the backend has none.
    """
    launch = inputs.settings.launch
    if not launch.spot:
        return False
    if service(inputs) is None:
        raise UsageError(f"--spot: backend {launch.backend} has no spot capacity", fix="drop --spot")
    return True


def _step_plan(inputs: PlanInputs, place: Placement, work: _Work, time: throughput.TimeEstimate | Unknown) -> StepPlan:
    hours = time if isinstance(time, Unknown) else time.hours
    s3_data = step_times.s3_data_way(inputs, "streamed" if work.sweep or work.search else "copied")
    workers = step_times.workers_of(inputs, place, streamed=s3_data == "streamed")
    return StepPlan(
        name="lr-find" if work.sweep else "find-batch" if work.search else "train",
        instance_type=place.instance_type,
        instances=place.instances,
        gpus=work.batch.world_size,
        gpu_model=place.gpu.model,
        spot=work.spot,
        compute_capability=place.gpu.compute_capability,
        local_storage_gb=place.local_storage_gb,
        s3_data=s3_data,
        batch=work.batch,
        optimizer_steps=work.optimizer_steps,
        sweep=work.sweep,
        search=work.search,
        memory=_memory(
            inputs,
            place,
            _largest(inputs, work.batch) if work.sweep else work.batch,
            loop="plain" if work.sweep else "lightning",
        ),
        time_hours=hours,
        bound=None if isinstance(time, Unknown) else time.bound,
        samples_per_second=time if isinstance(time, Unknown) else time.samples_per_second,
        startup_minutes=step_times.hardware_of(inputs, place, s3_data).startup_minutes,
        measured_scale=work.measured_scale,
        workers=workers.number,
        workers_why=workers.why,
        loading_seconds=work.loading_seconds,
        rate_usd_per_hour=place.rate,
        cost_usd=cost(place.rate, hours, place.instances),
        checkpoints=None
        if work.sweep or work.search
        else checkpoints(
            inputs,
            instances=place.instances,
            spot=work.spot,
            own_disk=place.local_storage_gb is not None or service(inputs) is None,
        ),
    )


def find_finder(inputs: PlanInputs, batches: BatchPlan) -> Finder:
    """Return the machine of lr-find among those it could run on, and why; a pipeline with an lr-find asks once."""
    training = place_training(inputs)
    time = step_times.training_time(inputs, training, batches)
    options = [_option(inputs, place, batches) for place in place_finders(inputs)]
    spent = cost(training.rate, time if isinstance(time, Unknown) else time.hours, training.instances)
    return choose(options, training, spent, asked=inputs.settings.lr.finder_instance is not None)


def _option(inputs: PlanInputs, place: Placement, batches: BatchPlan) -> Option:
    # SageMaker puts the data on an instance's own disk where it has one, unless they are streamed from S3.
    disk = place.local_storage_gb if service(inputs) == "sagemaker" else None
    return Option(
        place=place,
        memory=_memory(inputs, place, _largest(inputs, batches.lr_find), loop="plain"),
        time=step_times.range_test_time(inputs, place, batches),
        holds_data=disk is None or disk_gb(inputs.data, step_times.s3_data_way(inputs, "streamed")) <= disk,
    )


def _memory(
    inputs: PlanInputs, place: Placement, batch: StepBatch, *, loop: Literal["lightning", "plain"]
) -> memory.MemoryEstimate | Unknown:
    workload, kept = inputs.settings.workload, optimizer_kept(inputs)
    process = memory.TrainingProcess(
        per_gpu_batch=batch.per_gpu,
        precision=workload.precision,
        optimizer=kept.optimizer,
        momentum=kept.momentum,
        weight_decay=kept.weight_decay,
        average=workload.ema_decay is not None and loop == "lightning",
        world_size=batch.world_size,
        loop=loop,
        device=place.hardware.device,
        compute_capability=place.gpu.compute_capability,
    )
    return memory.estimate(inputs.traced(), process, place.memory_mib)
