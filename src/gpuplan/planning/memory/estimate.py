"""Peak memory of one training process, with line items, and whether it fits its GPU.

Called by plans, comparisons and `gpuplan memory`. A step's trace is assembled into a few iterations and replayed
through a model of PyTorch's allocator; nothing is read from hardware. Method and measured errors: docs/estimates.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import BYTES_PER_GIB, gib_from_bytes, gib_from_mib
from gpuplan.planning.batch import largest_fitting
from gpuplan.planning.memory.allocator import Step, least_capacity, replay
from gpuplan.planning.memory.step_program import (
    CUBLAS_WORKSPACE,
    HOPPER_CUBLAS_WORKSPACE,
    Around,
    Optimizer,
    assemble,
    at_peak,
)
from gpuplan_job.contract import Precision

if TYPE_CHECKING:
    from gpuplan.planning.traces.source import Traced

Verdict = Literal["fits", "tight", "too_big"]

_CONTEXT_GIB = {"cuda": 0.3, "mps": 0.8, "cpu": 0.8}
"""CUDA: 250 to 310 MiB with lazy loading (torch >= 2, CUDA >= 11.7) on RTX 3060 and 4060. CPU: resident memory of
Python with torch, torchvision and Lightning imported. Apple GPUs: taken from the CPU, not measured."""
_NCCL_GIB = 0.2
"""100 to 300 MiB by experience, not measured."""
MARGIN = 0.02
"""Between `fits` and `too_big`. Of published runs and caps none ran out of memory that fits with this much to spare."""
_MOST = 1.25
"""No published peak was more than this times the estimate: cuDNN takes workspaces while there is room for them."""
_HOPPER = "9.0"
_CPU_RESERVED = 1.2
"""A process's memory over bytes in use where malloc serves them: not measured beyond small models."""
_NO_BATCH = 1 << 40
"""A bound for the search that no batch comes near."""


class TrainingProcess(Frozen):
    """One process of a training, as far as its memory depends on it."""

    per_gpu_batch: int = Field(ge=1)
    precision: Precision
    optimizer: Optimizer
    momentum: float = 0.9
    """Of SGD and RMSprop; 0 keeps no state."""
    weight_decay: float = 5e-4
    average: bool = False
    """A moving average of the weights is kept, and while it is validated the weights beside it."""
    world_size: int = Field(default=1, ge=1)
    loop: Literal["lightning", "plain"] = "lightning"
    """Where gradients are set to zero: after the forward pass (Lightning), or before it."""
    device: Literal["cuda", "mps", "cpu"] = "cuda"
    compute_capability: str | None = None
    """Of a CUDA GPU, such as `9.0`: Hopper's cuBLAS takes more. None: not known, taken for an earlier one."""


class MemoryItem(Frozen):
    """One line of an estimate."""

    name: str
    gib: float
    how: str


class MemoryEstimate(Frozen):
    """Peak memory of one process on its GPU, in GiB; the items add up to the peak."""

    peak_gib: float
    capacity_gib: float
    verdict: Verdict
    items: tuple[MemoryItem, ...]
    error_band: tuple[float, float]
    """Lowest and highest peak in GiB that the estimate's measured error allows."""


class Footprint(NamedTuple):
    """What the process asks of its allocator, in bytes, the context left out."""

    steps: tuple[Step, ...]
    reserved: int
    """Most bytes held at a time on a card with room for all of it."""
    allocated: int
    """Most bytes in use at a time: nothing less can do."""
    in_use: dict[tuple[str, int], int]
    """Bytes at that moment by kind and module."""

    def fits(self, capacity: int) -> bool:
        """Tell whether the sequence goes through in `capacity` bytes."""
        if capacity >= self.reserved:
            return True
        return capacity >= self.allocated and replay(self.steps, capacity).fits

    def peak(self, capacity: int) -> int:
        """Return the bytes held at the most on a card with `capacity` bytes; more than that where it does not fit."""
        if capacity >= self.reserved or capacity < self.allocated:
            return self.reserved
        held = replay(self.steps, capacity)
        return held.reserved if held.fits else self.reserved


def footprint(traced: Traced, process: TrainingProcess) -> Footprint:
    """Return what the process asks of its allocator."""
    return _footprint(traced, _around(process))


@lru_cache(maxsize=256)
def _footprint(traced: Traced, around: Around) -> Footprint:
    """Do so, and keep it: placement and comparison ask again and again, for GPUs and numbers of them that ask alike."""
    program = assemble(traced.step, around)
    steps = tuple(program.steps)
    free = replay(steps)
    return Footprint(steps, free.reserved, free.allocated, at_peak(program))


def estimate(traced: Traced | Unknown, process: TrainingProcess, memory_mib: int) -> MemoryEstimate | Unknown:
    """Estimate the peak on a device of `memory_mib` usable MiB; an unknown trace gives an unknown peak.

    peak = context + NCCL + what the allocator holds at the most when it is replayed at the device's capacity.
    """
    if isinstance(traced, Unknown):
        return traced
    asked = footprint(traced, process)
    apart = outside(process)
    fixed = sum(item.gib for item in apart)
    capacity = gib_from_mib(memory_mib)
    room = max(0, int((capacity - fixed) * BYTES_PER_GIB))
    held = asked.peak(room) if process.device == "cuda" else int(_CPU_RESERVED * asked.allocated)
    inside = items_in_use(asked, traced)
    rest = gib_from_bytes(held) - sum(item.gib for item in inside)
    cached = MemoryItem(name="allocator", gib=rest, how="reserved and not in use: rounding, fragments, cached blocks")
    error = traced.size_error
    return MemoryEstimate(
        peak_gib=gib_from_bytes(held) + fixed,
        capacity_gib=capacity,
        verdict=_verdict(asked, process, room, error),
        items=(*inside, cached, *apart),
        error_band=(
            fixed + gib_from_bytes(asked.allocated) * (1 - error),
            fixed + _MOST * gib_from_bytes(held) * (1 + error),
        ),
    )


def least_card_gib(traced: Traced, process: TrainingProcess) -> float:
    """Return the GiB of the smallest card that the process fits, its context and NCCL's buffers included."""
    apart = sum(item.gib for item in outside(process))
    if process.device != "cuda":
        return apart + _CPU_RESERVED * gib_from_bytes(footprint(traced, process).allocated)
    return apart + gib_from_bytes(least_capacity(footprint(traced, process).steps))


def largest_batch(traced: Traced | Unknown, process: TrainingProcess, memory_mib: int) -> int | Unknown:
    """Return the largest per-GPU batch whose verdict is `fits`; 0 if even one sample does not."""
    if isinstance(traced, Unknown):
        return traced

    def fits(size: int) -> bool:
        found = estimate(traced, process.model_copy(update={"per_gpu_batch": size}), memory_mib)
        return isinstance(found, MemoryEstimate) and found.verdict == "fits"

    below = 1
    while below < _NO_BATCH and fits(below):
        below *= 2
    return largest_fitting(lambda size: size <= below // 2 or fits(size), below) or 0


def items_in_use(asked: Footprint, traced: Traced) -> list[MemoryItem]:
    """Return the bytes in use at the peak by kind, in the order of a training's life."""
    totals: dict[str, int] = {}
    for (kind, _), size in asked.in_use.items():
        totals[kind] = totals.get(kind, 0) + size
    return [
        MemoryItem(
            name=kind, gib=gib_from_bytes(totals[kind]), how=f"{how} ({traced.how})" if kind == "activations" else how
        )
        for kind, how in _HOW.items()
        if kind in totals
    ]


_HOW = {
    "parameters": "weights in fp32",
    "buffers": "running statistics and other state that is not trained",
    "gradients": "in fp32, as far as they are alive at the peak",
    "optimizer state": "kept from step to step, in fp32",
    "averaged weights": "their moving average, in fp32",
    "optimizer temporaries": "alive while the optimizer steps",
    "DDP buckets": "one more copy of all gradients",
    "half-precision weights": "autocast's copies, kept for the backward pass",
    "inputs": "the batch itself",
    "cuBLAS workspaces": "one for the forward pass, one for autograd's thread",
    "activations": "kept for the backward pass",
    "temporaries": "gradients on their way and results nobody keeps",
}


def _verdict(asked: Footprint, process: TrainingProcess, room: int, size_error: float) -> Verdict:
    if process.device != "cuda":
        if asked.allocated * _CPU_RESERVED * (1 + size_error) <= room:
            return "fits"
        return "tight" if asked.allocated * (1 - size_error) <= room else "too_big"
    if asked.fits(int(room * (1 - MARGIN) / (1 + size_error))):
        return "fits"
    return "tight" if asked.fits(int(room * (1 + MARGIN) * (1 + size_error))) else "too_big"


def _around(process: TrainingProcess) -> Around:
    return Around(
        batch=process.per_gpu_batch,
        optimizer=process.optimizer,
        momentum=process.momentum,
        weight_decay=process.weight_decay,
        average=process.average,
        loop=process.loop,
        buckets=process.world_size > 1,
        cublas_workspace=HOPPER_CUBLAS_WORKSPACE if process.compute_capability == _HOPPER else CUBLAS_WORKSPACE,
    )


def outside(process: TrainingProcess) -> list[MemoryItem]:
    """Return what lies outside the allocator: the device context, and NCCL's buffers where there are several GPUs."""
    what = "libraries of the process" if process.device == "cpu" else "device context and libraries"
    items = [MemoryItem(name="context", gib=_CONTEXT_GIB[process.device], how=what)]
    if process.world_size > 1 and process.device == "cuda":
        items.append(MemoryItem(name="NCCL", gib=_NCCL_GIB, how="communication buffers"))
    return items
