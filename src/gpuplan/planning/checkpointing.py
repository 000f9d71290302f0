"""How often the training will save its state, what that takes, and what an interruption can undo at most. Pure.

Called by `steps`, `job_input`, `money` and reports. The job measures what a save takes and decides by the same formula
(`gpuplan_job.checkpoint_interval`); the plan says what it is likely to come to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, count, significant
from gpuplan.planning.money.interruptions import INTERRUPTIONS_PER_HOUR
from gpuplan_job.checkpoint_interval import MOST_SECONDS, interval_seconds

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.speed.throughput import Hours

_FP32_BYTES = 4
_STATE_COPIES = {"sgd": 1, "adamw": 2, "lamb": 2, "own": 2}
"""Of the weights, that the optimizer keeps: momentum; two moments; of a user's own it is taken for two."""
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
    """Return parameters x 4 B x (1 + copies that the optimizer keeps), or why the parameters are not known."""
    workload = inputs.settings.workload
    traced = inputs.traced()
    if isinstance(traced, Unknown):
        return traced
    copies = 0 if workload.optimizer == "sgd" and workload.momentum == 0 else _STATE_COPIES[workload.optimizer]
    copies += workload.ema_decay is not None
    return _FP32_BYTES * traced.step.parameters * (1 + copies)
