"""The two steps a pipeline is made of, planned: lr-find on one GPU, train on all. Pure; called by the pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.checkpointing import checkpoints
from gpuplan.planning.finder import Finder, Option, choose
from gpuplan.planning.limits import disk_gb
from gpuplan.planning.memory import estimate as memory
from gpuplan.planning.money.cost import cost
from gpuplan.planning.placement import (
    Placement,
    device,
    place_finders,
    place_on_one_gpu_of_training,
    place_training,
    service,
)
from gpuplan.planning.plan import FinderPlan, StepPlan
from gpuplan.planning.range_test import range_test
from gpuplan.planning.speed import data_transfer, throughput
from gpuplan_job.contract import BatchSpec

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.speed.data_transfer import S3Data
    from gpuplan_job.contract import SweepSpec
    from gpuplan_job.step_trace import StepTrace

_FORWARD_SHARE = 1 / 3
"""A forward pass costs about a third of a training step."""


def lr_find_step(inputs: PlanInputs, batches: BatchPlan, finder: Finder) -> StepPlan:
    """Return the planned LR range test on one GPU."""
    sweep = range_test(inputs, batches)
    found = finder.option
    work = _Work(batches.lr_find, sweep.optimizer_steps, sweep=sweep)
    return _step_plan(inputs, found.place, work, found.time)


def finder_plan(inputs: PlanInputs, batches: BatchPlan, found: Finder) -> FinderPlan | None:
    """Return where lr-find runs and why, with the cost on the whole instance of the training; None without AWS."""
    if service(inputs) is None:
        return None
    training = place_training(inputs)
    naive = place_on_one_gpu_of_training(inputs)
    time = _range_test_time(inputs, naive, batches)
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
        batches.steps_per_epoch * inputs.settings.workload.epochs,
        measured_scale=_measured_scale(inputs, batches, finder.place, place) if finder and same_gpu else None,
        loading_seconds=_loading_seconds(inputs, batches, place),
        spot=_spot(inputs),
    )
    return _step_plan(inputs, place, work, _training_time(inputs, place, batches))


def _range_test_time(inputs: PlanInputs, place: Placement, batches: BatchPlan) -> throughput.TimeEstimate | Unknown:
    sweep, s3_data = range_test(inputs, batches), _s3_data(inputs, "streamed")
    load = _load(inputs, batches.lr_find, streamed=s3_data is not None)
    hardware = _hardware(inputs, place, s3_data)
    one = throughput.step_time(_trace(inputs), load, hardware)
    steps = sweep.own_steps(BatchSpec(batches.lr_find.per_gpu, 1, batches.lr_find.accumulation))
    return throughput.lr_find(one, load, hardware, steps=steps, noise_micro_batches=sweep.noise_micro_batches)


def _training_time(inputs: PlanInputs, place: Placement, batches: BatchPlan) -> throughput.TimeEstimate | Unknown:
    epochs = inputs.settings.workload.epochs
    load = _load(inputs, batches.train)
    hardware = _hardware(inputs, place, _s3_data(inputs, "copied"))
    one = throughput.step_time(_trace(inputs), load, hardware)
    validated = inputs.data.val_samples * epochs
    return throughput.train(one, load, hardware, steps=batches.steps_per_epoch * epochs, val_samples=validated)


def _s3_data(inputs: PlanInputs, way: S3Data) -> S3Data | None:
    """Return the way if the data come from S3: to SageMaker alone."""
    there = data_transfer.on_s3(inputs.settings.workload.data, inputs.data)
    return way if there and service(inputs) == "sagemaker" else None


def _hardware(inputs: PlanInputs, place: Placement, s3_data: S3Data | None) -> throughput.Hardware:
    """Return the machine with a start-up that is longer by what data on S3 take, as far as that is known."""
    more = data_transfer.startup_minutes(s3_data, inputs.data, place.hardware) if s3_data else None
    low, high = place.hardware.startup_minutes
    return place.hardware.model_copy(update={"startup_minutes": (low + more[0], high + more[1])} if more else {})


@dataclass(frozen=True)
class _Work:
    """What sets one step apart from the other."""

    batch: StepBatch
    optimizer_steps: int
    sweep: SweepSpec | None = None
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
    s3_data = _s3_data(inputs, "streamed" if work.sweep else "copied")
    return StepPlan(
        name="lr-find" if work.sweep else "train",
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
        memory=_memory(
            inputs,
            place,
            _largest(inputs, work.batch) if work.sweep else work.batch,
            loop="plain" if work.sweep else "lightning",
        ),
        time_hours=hours,
        bound=None if isinstance(time, Unknown) else time.bound,
        samples_per_second=time if isinstance(time, Unknown) else time.samples_per_second,
        startup_minutes=_hardware(inputs, place, s3_data).startup_minutes,
        measured_scale=work.measured_scale,
        loading_seconds=work.loading_seconds,
        rate_usd_per_hour=place.rate,
        cost_usd=cost(place.rate, hours, place.instances),
        checkpoints=None
        if work.sweep
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
    time = _training_time(inputs, training, batches)
    options = [_option(inputs, place, batches) for place in place_finders(inputs)]
    spent = cost(training.rate, time if isinstance(time, Unknown) else time.hours, training.instances)
    return choose(options, training, spent, asked=inputs.settings.lr.finder_instance is not None)


def _option(inputs: PlanInputs, place: Placement, batches: BatchPlan) -> Option:
    # SageMaker puts the data on an instance's own disk where it has one, unless they are streamed from S3.
    disk = place.local_storage_gb if service(inputs) == "sagemaker" else None
    return Option(
        place=place,
        memory=_memory(inputs, place, _largest(inputs, batches.lr_find), loop="plain"),
        time=_range_test_time(inputs, place, batches),
        holds_data=disk is None or disk_gb(inputs.data, _s3_data(inputs, "streamed")) <= disk,
    )


def _memory(
    inputs: PlanInputs, place: Placement, batch: StepBatch, *, loop: Literal["lightning", "plain"]
) -> memory.MemoryEstimate | Unknown:
    workload = inputs.settings.workload
    process = memory.TrainingProcess(
        per_gpu_batch=batch.per_gpu,
        precision=workload.precision,
        optimizer=workload.optimizer,
        momentum=workload.momentum,
        weight_decay=workload.weight_decay,
        world_size=batch.world_size,
        loop=loop,
        device=place.hardware.device,
        compute_capability=place.gpu.compute_capability,
    )
    return memory.estimate(inputs.traced(), process, place.memory_mib)


def _trace(inputs: PlanInputs) -> StepTrace | Unknown:
    traced = inputs.traced()
    return traced if isinstance(traced, Unknown) else traced.step


def _load(inputs: PlanInputs, batch: StepBatch, *, streamed: bool = False) -> throughput.StepLoad:
    workload = inputs.settings.workload
    return throughput.StepLoad(
        per_gpu_batch=batch.per_gpu,
        accumulation=batch.accumulation,
        precision=workload.precision,
        jpeg=inputs.data.storage == "jpeg",
        streamed=streamed,
        workers=workload.workers,
        optimizer=workload.optimizer,
        momentum=workload.momentum > 0,
    )


def _measured_scale(inputs: PlanInputs, batches: BatchPlan, finder: Placement, place: Placement) -> float:
    """Return seconds of a training step, validation included, per second of a finder step on the same GPU.

    It is the ratio of the two estimates, data loading left out, so it holds what only the training has: accumulation,
    all-reduce, other batches.
    """
    one = throughput.step_time(_trace(inputs), _load(inputs, batches.lr_find), finder.hardware)
    training = throughput.step_time(_trace(inputs), _load(inputs, batches.train), place.hardware)
    if device(inputs) == "cpu" or isinstance(one, Unknown) or isinstance(training, Unknown):
        return _plain_scale(inputs, batches, place)
    return training.computing / one.computing * (1 + _FORWARD_SHARE * _validated(inputs))


def _loading_seconds(inputs: PlanInputs, batches: BatchPlan, place: Placement) -> float:
    """Return the seconds in which a training step's data are loaded beside the GPUs, with its share of validation."""
    training = throughput.step_time(_trace(inputs), _load(inputs, batches.train), place.hardware)
    return 0.0 if isinstance(training, Unknown) else training.loading * (1 + _validated(inputs))


def _validated(inputs: PlanInputs) -> float:
    """Return validation samples per training sample."""
    return inputs.data.val_samples / inputs.data.train_samples


def _plain_scale(inputs: PlanInputs, batches: BatchPlan, place: Placement) -> float:
    """Return the same where no estimate helps: accumulation, batch, validation, CPU processes sharing cores."""
    shared = batches.train.world_size // place.instances if device(inputs) == "cpu" else 1
    size = batches.train.per_gpu / batches.lr_find.per_gpu
    return batches.train.accumulation * size * shared * (1 + _FORWARD_SHARE * _validated(inputs))
