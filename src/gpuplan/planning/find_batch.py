"""The batch search of a run: from where, up to where, on which machine, what it will find if the memory model is right.

Called by the pipelines. Pure. The search itself is `gpuplan_job.batch_search`, here on estimates, in the job on steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import MIB_PER_GIB, count
from gpuplan.planning.batch import StepBatch, plan_batches
from gpuplan.planning.memory.estimate import MARGIN, MemoryEstimate, MemoryItem
from gpuplan.planning.money.cost import Rate
from gpuplan.planning.placement import device, place_same_gpu, place_training
from gpuplan.planning.plan import FindBatchPlan
from gpuplan.planning.speed import throughput
from gpuplan.planning.step_times import one_step_time
from gpuplan.planning.steps import find_batch_step, training_memory
from gpuplan_job.batch_search import (
    HOST_SHARE,
    LEAST_TIMED_STEPS,
    TIMED_STEPS,
    WARM_UP_STEPS,
    Choice,
    Search,
    aligned,
    run,
)
from gpuplan_job.contract import BatchSearchSpec, BatchTrial

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.placement import Placement
    from gpuplan.planning.plan import StepPlan

LEAST_STEPS = 100
"""Optimizer steps that a training keeps however large its batch may be: as many as the shortest sweep of a range test
has, and a schedule of fewer has no shape."""
_LEAST_GROWTH = 4
"""The search starts at a quarter of its bound at the most: which batch is fastest takes more than one to tell."""
_TRY_SECONDS = {"cuda": 2.0, "mps": 2.0, "cpu": 12.0}
"""Of a try beside its steps: building the network; on a CPU also starting a process. Seen on two slow cores."""
_MEASURED_BAND = 0.05
"""What may still differ between find-batch's peak and the training's: fragments, validation, NCCL's real buffers."""


@dataclass(frozen=True)
class ExpectedSearch:
    """What the job would do and find if memory model and speeds were right."""

    choice: Choice | None
    """None where the memory of a step is not known, or not even one sample fits."""
    tries: tuple[int, ...]
    memory: MemoryEstimate | Unknown
    """At the batch that is chosen."""
    time: throughput.TimeEstimate | Unknown


@dataclass(frozen=True)
class PlannedSearch:
    """The search's step, the batch that the steps after it are planned at, and what a plan says of it."""

    step: StepPlan
    per_gpu: int
    told: FindBatchPlan
    same_gpu: tuple[str, ...]
    """Instance types whose GPU is the one that was measured."""
    correction_gib: float | None
    """What the measured peak is more than its estimate; None: nothing was measured, or nothing estimated."""


def plan_search(inputs: PlanInputs) -> PlannedSearch:
    """Return the planned search; after it has run, with what it found.

    Raises:
        UsageError: the data do not fill one global batch of one sample a GPU, or settings contradict the search.
    """
    _refuse_contradictions(inputs)
    found = inputs.found_batch
    wanted = found.start if found else inputs.settings.workload.per_gpu_batch
    spec, why = _spec(inputs, wanted)
    start = aligned(min(wanted, max(1, spec.largest // _LEAST_GROWTH)))
    place, training = place_same_gpu(inputs), place_training(inputs)
    expected = _expected(inputs, place, spec, start)
    predicted = expected.choice.chosen if expected.choice else Unknown(unknown=_not_predicted(expected.memory))
    guess = predicted if isinstance(predicted, int) else aligned(min(wanted, spec.largest))
    per_gpu = found.per_gpu if found else guess
    estimate = training_memory(inputs, place, _training_batch(spec, per_gpu), _capacity_mib(inputs))
    estimated = estimate if isinstance(estimate, Unknown) else estimate.peak_gib
    told = FindBatchPlan(
        instance_type=place.instance_type,
        reason=_reason(place),
        start=start,
        predicted=predicted,
        largest=spec.largest,
        largest_why=why,
        estimated_peak_gib=estimated,
        found=found,
    )
    measured = found.peak_gib if found else None
    return PlannedSearch(
        step=find_batch_step(inputs, place, spec, start, expected),
        per_gpu=per_gpu,
        told=told,
        same_gpu=(place.instance_type, training.instance_type),
        correction_gib=None if measured is None or isinstance(estimated, Unknown) else measured - estimated,
    )


def corrected(step: StepPlan, search: PlannedSearch) -> StepPlan:
    """Return a step on the measured GPU with its memory corrected by as much as the estimate was found to be off.

    A batch that ran with room to spare fits, whatever the estimate of it was.
    """
    memory, difference = step.memory, search.correction_gib
    if difference is None or isinstance(memory, Unknown) or step.instance_type not in search.same_gpu:
        return step
    peak = max(memory.peak_gib + difference, 0.0)
    item = MemoryItem(name="measured", gib=peak - memory.peak_gib, how="find-batch's measured peak less its estimate")
    return step.model_copy(
        update={
            "memory": MemoryEstimate(
                peak_gib=peak,
                capacity_gib=memory.capacity_gib,
                verdict="fits" if peak * (1 + MARGIN) <= memory.capacity_gib else "tight",
                items=(*memory.items, item),
                error_band=(peak * (1 - _MEASURED_BAND), peak * (1 + _MEASURED_BAND)),
            )
        }
    )


def _reason(place: Placement) -> str:
    """Return why the search runs there."""
    if isinstance(place.rate, Rate) and place.rate.amount == 0:
        return "where the training runs"
    why = f"{place.gpu.model}, the training's own GPU: memory measured on another would say nothing"
    idle = place.shape_gpus - 1
    return f"{why}; no single-GPU machine has it, so {idle} of its GPUs idle" if idle else why


def _refuse_contradictions(inputs: PlanInputs) -> None:
    """Refuse what fixes a batch that is looked for.

    Raises:
        UsageError: a setting does.
    """
    if inputs.settings.lr.finder_batch is not None:
        raise UsageError(
            f"--finder-batch {inputs.settings.lr.finder_batch} fixes lr-find's batch, and find-batch looks for it",
            why="both steps use the batch that find-batch finds",
            fix="drop --finder-batch, or --pipeline lr-then-train",
        )
    if inputs.lr_source is not None:
        raise UsageError(
            f"--lr-from {inputs.lr_source.run_id}: its range test was made at a batch, and this run's is not known yet",
            fix=f"gpuplan find-batch    then: gpuplan launch --per-gpu-batch FOUND --lr-from {inputs.lr_source.run_id}",
        )


def _spec(inputs: PlanInputs, start: int) -> tuple[BatchSearchSpec, str]:
    """Return what the job is told, and why it tries no larger batch than it does."""
    settings, samples = inputs.settings, inputs.data.train_samples
    accumulation, epochs = settings.workload.accumulate, settings.workload.epochs
    gpus = place_training(inputs).hardware.gpus
    by_data = samples // (gpus * accumulation)
    if by_data < 1:  # its own words
        plan_batches(samples, StepBatch.of(1, gpus, accumulation), epochs=epochs)
    by_steps = samples * epochs // LEAST_STEPS // (gpus * accumulation)
    asked = settings.find_batch.largest
    if asked is not None and asked <= by_data:
        largest, why = asked, "as asked with --largest-batch"
    elif asked is not None or by_data <= max(by_steps, start):
        largest, why = by_data, f"a global batch must fit the {count(samples)} training samples"
    elif by_steps >= start:
        largest, why = by_steps, f"the training keeps {LEAST_STEPS} steps (--largest-batch allows more)"
    else:
        largest, why = start, "with it the training has few steps already (--largest-batch allows more)"
    return BatchSearchSpec(
        largest=largest,
        memory_share=settings.find_batch.memory_share,
        world_size=gpus,
        accumulation=accumulation,
        trial_seconds=settings.find_batch.trial_seconds,
        memory_gib=settings.find_batch.memory_gib,
    ), why


def _expected(inputs: PlanInputs, place: Placement, spec: BatchSearchSpec, start: int) -> ExpectedSearch:
    capacity = _capacity_mib(inputs)
    known = training_memory(inputs, place, _training_batch(spec, min(start, spec.largest)), capacity)
    if isinstance(known, Unknown):
        return ExpectedSearch(None, (), known, known)
    seconds, own = 0.0, _TRY_SECONDS[place.hardware.device]

    def trial(batch: int) -> BatchTrial:
        nonlocal seconds
        estimate = training_memory(inputs, place, _training_batch(spec, batch), capacity)
        step, _ = one_step_time(inputs, place, batch)
        one = 1e-6 if isinstance(step, Unknown) else step.computing or step.seconds
        if isinstance(estimate, Unknown) or estimate.verdict == "too_big":
            seconds += own + one
            return BatchTrial(batch, "out-of-memory")
        timed = max(LEAST_TIMED_STEPS, min(TIMED_STEPS, int(spec.trial_seconds / one)))
        seconds += own + (WARM_UP_STEPS + timed) * one
        return BatchTrial(batch, "ran", estimate.peak_gib, one, batch / one)

    search = Search(spec, start, capacity / MIB_PER_GIB)
    choice = run(search, trial)
    most = max(tried.batch for tried in search.trials)
    step, hardware = one_step_time(inputs, place, most)
    if not isinstance(step, Unknown):
        seconds += step.loading  # the samples of the largest batch are loaded once
    chosen = choice.chosen if choice else 1
    return ExpectedSearch(
        choice=choice,
        tries=tuple(tried.batch for tried in search.trials),
        memory=training_memory(inputs, place, _training_batch(spec, chosen), capacity),
        time=throughput.find_batch(step, hardware, seconds=seconds, samples=most),
    )


def _training_batch(spec: BatchSearchSpec, per_gpu: int) -> StepBatch:
    return StepBatch.of(per_gpu, spec.world_size, spec.accumulation)


def _capacity_mib(inputs: PlanInputs) -> int:
    """Return the memory of a training process that the job will take for all there is."""
    there = place_training(inputs).memory_mib * (HOST_SHARE if device(inputs) == "cpu" else 1.0)
    asked = inputs.settings.find_batch.memory_gib
    return int(there if asked is None else min(there, asked * MIB_PER_GIB))


def _not_predicted(memory: MemoryEstimate | Unknown) -> str:
    return memory.unknown if isinstance(memory, Unknown) else "by the estimate not even one sample fits"
