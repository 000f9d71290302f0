"""How long a pipeline's steps take where they are placed, and on what: data, workers, hardware with its start-up. Pure.

Called by `planning.steps` and `planning.find_batch`. The model of a single step's time is `planning.speed`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.checked_code import optimizer_kept
from gpuplan.planning.placement import device, service
from gpuplan.planning.range_test import range_test
from gpuplan.planning.speed import data_loading, data_transfer, throughput
from gpuplan_job import data
from gpuplan_job.batch_growth import accumulations
from gpuplan_job.contract import BatchSpec
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.placement import Placement
    from gpuplan.planning.speed.data_transfer import S3Data
    from gpuplan_job.step_trace import StepTrace

_FORWARD_SHARE = 1 / 3
"""A forward pass costs about a third of a training step."""


def range_test_time(inputs: PlanInputs, place: Placement, batches: BatchPlan) -> throughput.TimeEstimate | Unknown:
    """Return how long the range test takes on a machine, start-up included, or why that is not known."""
    sweep, s3_data = range_test(inputs, batches), s3_data_way(inputs, "streamed")
    load = _load(inputs, batches.lr_find, place, streamed=s3_data == "streamed")
    hardware = hardware_of(inputs, place, s3_data)
    one = throughput.step_time(_trace(inputs), load, hardware)
    steps = sweep.own_steps(BatchSpec(batches.lr_find.per_gpu, 1, batches.lr_find.accumulation))
    return throughput.lr_find(one, load, hardware, steps=steps, noise_micro_batches=sweep.noise_micro_batches)


def training_time(inputs: PlanInputs, place: Placement, batches: BatchPlan) -> throughput.TimeEstimate | Unknown:
    """Return how long the training takes on a machine, validation and start-up included, or why that is not known."""
    epochs = inputs.settings.workload.epochs
    load = _load(inputs, batches.train, place)
    hardware = hardware_of(inputs, place, s3_data_way(inputs, "copied"))
    one = _mean_step(inputs, batches, place, hardware)
    validated = inputs.data.val_samples * epochs
    return throughput.train(one, load, hardware, steps=batches.steps_per_epoch * epochs, val_samples=validated)


def one_step_time(
    inputs: PlanInputs, place: Placement, per_gpu: int
) -> tuple[throughput.StepTime | Unknown, throughput.Hardware]:
    """Return the time of a step of one process that opens data where they lie, and the hardware with its start-up."""
    s3_data = s3_data_way(inputs, "streamed")
    hardware, load = (
        hardware_of(inputs, place, s3_data),
        _load(inputs, StepBatch.of(per_gpu), place, streamed=s3_data == "streamed"),
    )
    return throughput.step_time(_trace(inputs), load, hardware), hardware


def measured_scale(inputs: PlanInputs, batches: BatchPlan, finder: Placement, place: Placement) -> float:
    """Return seconds of a full training step, validation included, per second of a finder step on the same GPU.

    It is the ratio of the two estimates, data loading left out, so it holds what only the training has: accumulation,
    all-reduce, other batches.
    """
    one = throughput.step_time(_trace(inputs), _load(inputs, batches.lr_find, finder), finder.hardware)
    training = _mean_step(inputs, batches, place, place.hardware)
    if device(inputs) == "cpu" or isinstance(one, Unknown) or isinstance(training, Unknown):
        return _plain_scale(inputs, batches, place)
    return training.computing / one.computing * (1 + _FORWARD_SHARE * _validated(inputs))


def loading_seconds(inputs: PlanInputs, batches: BatchPlan, place: Placement) -> float:
    """Return the seconds in which a full step's data are loaded beside the GPUs, with its share of validation."""
    training = _mean_step(inputs, batches, place, place.hardware)
    return 0.0 if isinstance(training, Unknown) else training.loading * (1 + _validated(inputs))


def s3_data_way(inputs: PlanInputs, way: S3Data) -> S3Data | None:
    """Return the way if the data come from S3, to SageMaker alone; samples that lie many in an object are copied."""
    there = data_transfer.on_s3(inputs.settings.workload.data, inputs.data)
    if not there or service(inputs) != "sagemaker":
        return None
    return way if data.streams(inputs.settings.workload.data) else "copied"


def hardware_of(inputs: PlanInputs, place: Placement, s3_data: S3Data | None) -> throughput.Hardware:
    """Return the machine with a start-up that is longer by what data on S3 take, as far as that is known."""
    more = data_transfer.startup_minutes(s3_data, inputs.data, place.hardware) if s3_data else None
    low, high = place.hardware.startup_minutes
    return place.hardware.model_copy(update={"startup_minutes": (low + more[0], high + more[1])} if more else {})


def workers_of(inputs: PlanInputs, place: Placement, *, streamed: bool) -> data_loading.Workers:
    """Return the data-loading processes beside each GPU of a machine, and where their number comes from."""
    return data_loading.workers(place.hardware, inputs.settings.workload.workers, streamed=streamed)


def _mean_step(
    inputs: PlanInputs, batches: BatchPlan, place: Placement, hardware: throughput.Hardware
) -> throughput.StepTime | Unknown:
    """Return the time of a step of the full batch; while the batch grows, that of all steps over as many full ones."""
    workload, full = inputs.settings.workload, batches.train
    one = throughput.step_time(_trace(inputs), _load(inputs, full, place), hardware)
    counts = accumulations(workload.batch_schedule, full.accumulation, workload.epochs)
    if isinstance(one, Unknown) or len(set(counts)) == 1:
        return one
    seconds = computing = loading = 0.0
    for count, epochs in Counter(counts).items():
        batch = StepBatch.of(full.per_gpu, full.world_size, count)
        smaller = throughput.step_time(_trace(inputs), _load(inputs, batch, place), hardware)
        if isinstance(smaller, Unknown):
            return smaller
        layout = EpochLayout(inputs.data.train_samples, full.per_gpu, full.world_size, count)
        steps = layout.steps * epochs
        seconds += smaller.seconds * steps
        computing += smaller.computing * steps
        loading += smaller.loading * steps
    full_steps = batches.steps_per_epoch * workload.epochs
    mean = {"seconds": seconds / full_steps, "computing": computing / full_steps, "loading": loading / full_steps}
    return one.model_copy(update=mean)


def _trace(inputs: PlanInputs) -> StepTrace | Unknown:
    traced = inputs.traced()
    return traced if isinstance(traced, Unknown) else traced.step


def _load(inputs: PlanInputs, batch: StepBatch, place: Placement, *, streamed: bool = False) -> throughput.StepLoad:
    workload, kept = inputs.settings.workload, optimizer_kept(inputs)
    return throughput.StepLoad(
        per_gpu_batch=batch.per_gpu,
        accumulation=batch.accumulation,
        precision=workload.precision,
        jpeg=inputs.data.storage == "jpeg",
        streamed=streamed,
        workers=workers_of(inputs, place, streamed=streamed).number,
        optimizer=kept.optimizer,
        momentum=kept.momentum > 0,
        average=workload.ema_decay is not None,
        clipped=workload.clip_norm is not None,
    )


def _validated(inputs: PlanInputs) -> float:
    """Return validation samples per training sample."""
    return inputs.data.val_samples / inputs.data.train_samples


def _plain_scale(inputs: PlanInputs, batches: BatchPlan, place: Placement) -> float:
    """Return the same where no estimate helps: accumulation, batch, validation, CPU processes sharing cores."""
    shared = batches.train.world_size // place.instances if device(inputs) == "cpu" else 1
    size = batches.train.per_gpu / batches.lr_find.per_gpu
    return batches.train.accumulation * size * shared * (1 + _FORWARD_SHARE * _validated(inputs))
