"""The planned training on other numbers of GPUs of its kind, on real machines: what critical-batch advice compares.

Called by the pipelines, which keep it in the plan until lr-find has measured the noise scale, and by `advise`. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.advice.critical_batch import COUNTS, GpuOption
from gpuplan.planning.batch import StepBatch, plan_batches
from gpuplan.planning.placement import place_on_gpus, place_training
from gpuplan.planning.steps import train_step

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.planning.finder import Finder
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.placement import Placement


def gpu_options(inputs: PlanInputs, batches: BatchPlan, finder: Finder | None) -> tuple[GpuOption, ...]:
    """Return an option for each number of GPUs, by that number; `finder` is what lr-find runs on, None: there is none.

    The plan's own number is on the plan's own machines; any other on the smallest machine that has as many GPUs.
    """
    own = place_training(inputs)
    counts = sorted({*COUNTS, own.hardware.gpus})
    return tuple(
        _option(inputs, batches, finder, gpus, own if gpus == own.hardware.gpus else place_on_gpus(inputs, gpus))
        for gpus in counts
    )


def _option(
    inputs: PlanInputs, batches: BatchPlan, finder: Finder | None, gpus: int, place: Placement | Unknown
) -> GpuOption:
    planned = batches.train
    batch = StepBatch.of(planned.per_gpu, gpus, planned.accumulation)
    if isinstance(place, Unknown):
        return GpuOption(gpus=gpus, batch=batch, time_hours=place, rate_usd_per_hour=place)
    try:
        own = plan_batches(
            inputs.data.train_samples,
            batch,
            epochs=inputs.settings.workload.epochs,
            schedule=inputs.settings.workload.batch_schedule,
            finder_batch=batches.lr_find.per_gpu,
        )
    except UsageError as error:
        why = Unknown(unknown=error.what)
        return GpuOption(gpus=gpus, batch=batch, time_hours=why, rate_usd_per_hour=place.rate)
    step = train_step(inputs, own, finder, place)
    too_big = not isinstance(step.memory, Unknown) and step.memory.verdict == "too_big"
    return GpuOption(
        gpus=gpus,
        batch=batch,
        optimizer_steps=own.steps_per_epoch * inputs.settings.workload.epochs,
        time_hours=Unknown(unknown=f"{planned.per_gpu} samples do not fit a GPU") if too_big else step.time_hours,
        startup_minutes=step.startup_minutes,
        measured_scale=None if too_big else step.measured_scale,
        loading_seconds=step.loading_seconds,
        rate_usd_per_hour=step.rate_usd_per_hour,
        instance_type=place.instance_type,
        instances=place.instances,
        instance_gpus=place.shape_gpus * place.instances,
    )
