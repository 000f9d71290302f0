"""How often the training will save its state, what that takes, and what an interruption can undo at most. Pure.

Called by `steps`, `job_input`, `money` and reports. The job measures what a save takes and decides by the same formula
(`gpuplan_job.checkpoint_interval`); the plan says what it is likely to come to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, count, gib_from_bytes, significant
from gpuplan.planning.checked_code import optimizer_kept
from gpuplan.planning.memory.step_program import optimizer_memory
from gpuplan.planning.money.interruptions import INTERRUPTIONS_PER_HOUR
from gpuplan_job.checkpoint_interval import MOST_SECONDS, interval_seconds

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.speed.throughput import Hours

_SERVER_HOURS_BETWEEN_FAILURES = 54 * 24 * 16_384 / 8 / 419
"""On demand: 6,335 hours. Llama 3's training (arXiv 2407.21783, section 3.3.4) met 419 unexpected interruptions in 54
days on 16,384 GPUs, 8 a server. Taken for any instance: smaller ones fail less often, if at all differently."""
_BYTES_PER_SECOND = {"volume": 125e6, "own disk": 500e6}
"""A volume: the base throughput of EBS gp3; NVMe disks of an instance, or of this machine: an assumption below what
they do. Reading back for the digest comes from memory."""
_LEAST_SAVE_SECONDS = 0.1
_LEAST_COUNTED = 1000
_SECONDS_PER_MINUTE = 60


class Checkpoints(Frozen):
    """When the training saves: after each epoch, and within one every `interval_minutes`."""

    interval_minutes: float
    asked: bool
    """By --checkpoint-minutes; else it follows from what a save takes and how often the training will be cut off."""
    size_gib: float | None = None
    """Of one; None: not known, and `save_seconds` says why, or a plan of a version that did not say."""
    save_seconds: float | Unknown
    hours_between_failures: float
    """Of all its instances together."""
    why: str


def checkpoints(inputs: PlanInputs, *, instances: int, spot: bool, own_disk: bool) -> Checkpoints:
    """Return how a training on so many instances saves."""
    minutes = inputs.settings.launch.checkpoint_minutes
    hours = hours_between_failures(instances, spot=spot)
    size = checkpoint_bytes(inputs)
    save: float | Unknown = size
    if not isinstance(size, Unknown):
        save = max(_LEAST_SAVE_SECONDS, size / _BYTES_PER_SECOND["own disk" if own_disk else "volume"])
    if minutes is None:
        seconds = MOST_SECONDS if isinstance(save, Unknown) else interval_seconds(save, hours * SECONDS_PER_HOUR)
    many = f"one of {instances} machines" if instances > 1 else "a machine"
    taken = f"spot: AWS takes {many} back" if spot else f"{many} fails"
    return Checkpoints(
        interval_minutes=seconds / _SECONDS_PER_MINUTE if minutes is None else minutes,
        asked=minutes is not None,
        size_gib=None if isinstance(size, Unknown) else gib_from_bytes(size),
        save_seconds=save,
        hours_between_failures=hours,
        why=f"{taken} every {count(int(float(f'{hours:.2g}'))) if hours > _LEAST_COUNTED else significant(hours, 2)} h",
    )


def hours_between_failures(instances: int, *, spot: bool) -> float:
    """Return the mean hours between failures of instances that stop together; on spot at the p90 of interruptions.

    Prudent, because saving too often costs 5 % at most and too seldom may cost all.
    """
    each = 1 / INTERRUPTIONS_PER_HOUR[1] if spot else _SERVER_HOURS_BETWEEN_FAILURES
    return each / instances


def saves_within_epochs(plan: Checkpoints | None, hours: Hours | Unknown, epochs: int) -> tuple[int, int]:
    """Return how often a training saves within its epochs, at p50 and p90 of its time; 0 where that is not known."""
    if plan is None or isinstance(hours, Unknown):
        return 0, 0
    interval = plan.interval_minutes / 60
    # The clock starts anew with each epoch's own save.
    low, high = (epochs * max(0, math.ceil(each / epochs / interval) - 1) for each in (hours.p50, hours.p90))
    return low, high


def checkpoint_bytes(inputs: PlanInputs) -> int | Unknown:
    """Return what of a training is saved: weights, buffers, the optimizer's state, their average; or why not known."""
    traced = inputs.traced()
    if isinstance(traced, Unknown):
        return traced
    trained, buffers = sum(traced.step.trainable), sum(traced.step.buffers)
    size = trained + sum(traced.step.frozen) + buffers + trained * optimizer_memory(*optimizer_kept(inputs)).state
    # What is not trained has no average; the buffers that belong to what is trained have one.
    return size if inputs.settings.workload.ema_decay is None else size + trained + buffers
