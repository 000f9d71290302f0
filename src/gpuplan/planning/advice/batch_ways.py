"""How a global batch is reached: per-GPU batch x GPUs x accumulated micro-batches. Pure; called by `advice`.

It knows no model: whether a per-GPU batch fits its GPU is what a plan says.
"""

from __future__ import annotations

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Frozen
from gpuplan.planning.batch import StepBatch
from gpuplan.workload.schema import MOST_ACCUMULATION

_STARTS = ((8.0, 32), (16.0, 64), (24.0, 128))
"""GiB of a GPU below which a training usually starts with no more than so many samples on it: practice, not a bound."""
_LARGEST_START = 256
_MOST_GPUS_POWER = 12
_SHOWN = 3


class Machine(Frozen):
    """What the training runs on, as far as it is known."""

    instance: str | None = None
    """Name of its profile."""
    gpu: str | None = None
    gpus: int | None = None
    """Training processes of all machines together."""
    memory_gib: float | None = None
    """Of one GPU."""
    nodes: int = 1
    partial: bool = False
    """Fewer processes than the machine has GPUs."""

    @property
    def largest_start(self) -> int | None:
        """Samples a GPU of this memory usually starts with at most; None where the memory is not known."""
        if self.memory_gib is None:
            return None
        return next((batch for below, batch in _STARTS if self.memory_gib < below), _LARGEST_START)


def ways(to_batch: int, from_batch: int, machine: Machine, per_gpu: int | None) -> tuple[StepBatch, ...]:
    """Return how `machine` reaches a global batch of `to_batch` samples, the advised way first; none if it cannot.

    With `per_gpu` given there is one way a number of GPUs. Else the advised way accumulates as little as the GPU's
    memory usually allows, and the per-GPU batch that `from_batch` is on one GPU stands beside it; a batch too large for
    that gets as few samples a GPU as 16 micro-batches leave.
    """
    base = min(per_gpu or from_batch, to_batch)
    if machine.gpus is not None:
        bounds = [base] if per_gpu else [machine.largest_start or base, base]
        found = [way for bound in bounds if (way := _way(to_batch, machine.gpus, bound, exact=per_gpu is not None))]
        return tuple(dict.fromkeys(found or ([] if per_gpu else _smallest(to_batch, machine.gpus))))
    several = [2**power for power in range(_MOST_GPUS_POWER + 1)]
    exact = [way for gpus in several if (way := _way(to_batch, gpus, base, exact=True))]
    if exact or per_gpu:
        return tuple(sorted(exact, key=lambda way: way.accumulation)[:_SHOWN])
    loose = [way for gpus in several if (way := _way(to_batch, gpus, base, exact=False))]
    return tuple(sorted(loose, key=lambda way: (-way.per_gpu, way.accumulation))[:_SHOWN])


def require_reachable(to_batch: int, machine: Machine, per_gpu: int | None) -> None:
    """Refuse a global batch that the GPUs and the per-GPU batch the user named cannot make up.

    Raises:
        UsageError: it is no multiple of them, or takes more than 16 micro-batches.
    """
    unit = (per_gpu or 1) * (machine.gpus or 1)
    gpus = f"{machine.gpus} GPU{'s' if machine.gpus != 1 else ''}"
    named = " x ".join([f"{per_gpu} a GPU"] * (per_gpu is not None) + [gpus] * (machine.gpus is not None))
    if to_batch % unit:
        below = to_batch // unit * unit
        fix = f"--to-batch {below} or --to-batch {below + unit}" if below else f"--to-batch {unit}"
        raise UsageError(f"--to-batch {to_batch} is no multiple of {named}", why="every GPU takes as many", fix=fix)
    if per_gpu is not None and machine.gpus is not None and to_batch // unit > MOST_ACCUMULATION:
        raise UsageError(
            f"--to-batch {to_batch} takes {to_batch // unit} micro-batches of {named}, at most {MOST_ACCUMULATION}",
            why="a step waits for all of them, and BatchNorm sees ever smaller a share",
            fix=f"--to-batch {unit * MOST_ACCUMULATION} or less, or a larger --per-gpu-batch",
        )


def _smallest(to_batch: int, gpus: int) -> list[StepBatch]:
    """Return the way over `gpus` GPUs that puts the fewest samples on each."""
    evenly = [number for number in range(1, MOST_ACCUMULATION + 1) if to_batch % (gpus * number) == 0]
    return [StepBatch.of(to_batch // (gpus * evenly[-1]), gpus, evenly[-1])] if evenly else []


def _way(to_batch: int, gpus: int, bound: int, *, exact: bool) -> StepBatch | None:
    """Return the way over `gpus` GPUs that accumulates least, with at most (or exactly) `bound` samples on each."""
    for accumulation in range(1, MOST_ACCUMULATION + 1):
        per_gpu, rest = divmod(to_batch, gpus * accumulation)
        if not rest and per_gpu and (per_gpu == bound if exact else per_gpu <= bound):
            return StepBatch.of(per_gpu, gpus, accumulation)
    return None
