"""Rough peak memory of one training process, with line items, and whether it fits its GPU.

Called by plans and `gpuplan memory`. Pure arithmetic on facts; it reads no hardware and builds no model.
Formulas, sources and measured errors: docs/estimates.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import gib_from_bytes, gib_from_mib
from gpuplan_job.contract import Precision

if TYPE_CHECKING:
    from gpuplan.planning.models import ModelFacts

Verdict = Literal["fits", "tight", "too_big"]

_FP32_BYTES = 4
_HALF_BYTES = 2
_CONTEXT_GIB = {"cuda": 0.3, "mps": 0.8, "cpu": 0.8}
"""CUDA: 250 to 310 MiB with lazy loading (torch >= 2, CUDA >= 12) on RTX 3060 and 4060. CPU: resident memory of Python
with torch, torchvision and Lightning imported. Apple GPUs: taken from the CPU, not measured."""
_NCCL_GIB = 0.2
"""100 to 300 MiB by experience, not measured."""
_RESERVED = 1.2
"""Bytes reserved over bytes in use, with workspaces: 1.0 to 1.55 on published rows, by model (benchmarks/data)."""
_LEAST = 0.97
_MOST = 1.55
"""The band, over bytes in use: nothing can take less than is in use, no published row took more than this."""
_NEEDED = 1.1
"""Bytes a run needs to get through, over bytes in use. The allocator gives cached blocks back under pressure, so this
is less than it reserves: published runs went out of memory from 0.96 on, and none below."""


class TrainingProcess(Frozen):
    """One process of a training, as far as its memory depends on it."""

    per_gpu_batch: int = Field(ge=1)
    precision: Precision
    optimizer: Literal["sgd", "adamw"]
    momentum: float = 0.9
    """Of SGD; 0 keeps no state."""
    world_size: int = Field(default=1, ge=1)
    loop: Literal["lightning", "plain"] = "lightning"
    """Where gradients are set to zero: after the forward pass (Lightning), or before it."""
    device: Literal["cuda", "mps", "cpu"] = "cuda"


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


def estimate(facts: ModelFacts | Unknown, process: TrainingProcess, memory_mib: int) -> MemoryEstimate | Unknown:
    """Estimate the peak on a device of `memory_mib` usable MiB; an unknown model gives an unknown peak.

    peak = context + NCCL + reserved / allocated x (weights + gradients + optimizer state + half copies + DDP buckets
    + max(activations, temporaries of the optimizer)), the activations being per-sample bytes x per-GPU batch.
    """
    if isinstance(facts, Unknown):
        return facts
    allocated = _allocated(facts, process)
    outside = _outside(process)
    live, fixed = sum(item.gib for item in allocated), sum(item.gib for item in outside)
    # The image size's own error stands beside the formula's.
    least, most = _LEAST * (1 - facts.size_error), _MOST * (1 + facts.size_error)
    slack = MemoryItem(
        name="allocator",
        gib=(_RESERVED - 1) * live,
        how=f"reserved but not in use, and workspaces: {_RESERVED - 1:.0%} of the above",
    )
    capacity = gib_from_mib(memory_mib)
    verdict: Verdict = "tight"
    if fixed + least * live > capacity:
        verdict = "too_big"
    elif fixed + _NEEDED * (1 + facts.size_error) * live <= capacity:
        verdict = "fits"
    return MemoryEstimate(
        peak_gib=live + slack.gib + fixed,
        capacity_gib=capacity,
        verdict=verdict,
        items=(*allocated, slack, *outside),
        error_band=(fixed + least * live, fixed + most * live),
    )


def _allocated(facts: ModelFacts, process: TrainingProcess) -> list[MemoryItem]:
    """Return what lives in the device's allocator at the peak."""
    weights = gib_from_bytes(facts.parameters * _FP32_BYTES)
    buffers = gib_from_bytes(facts.buffers * _FP32_BYTES)
    mixed = process.precision != "fp32"
    state, kind = _optimizer_state(process)
    zeroed = "alive through the forward pass" if process.loop == "lightning" else "grow while activations are freed"
    items = [
        MemoryItem(name="parameters", gib=weights + buffers, how=f"{facts.parameters:,} in fp32, and buffers"),
        MemoryItem(name="gradients", gib=weights, how=f"one fp32 copy, {zeroed}"),
        MemoryItem(name="optimizer state", gib=state * weights, how=kind),
    ]
    if mixed:
        half = gib_from_bytes(facts.parameters * _HALF_BYTES)
        items.append(MemoryItem(name="half-precision weights", gib=half, how="autocast's copies, kept for backward"))
    if process.world_size > 1:
        items.append(MemoryItem(name="DDP buckets", gib=weights, how="one more copy of all gradients"))
    saved = facts.saved_mib_mixed if mixed else facts.saved_mib
    activations = gib_from_mib(saved * process.per_gpu_batch)
    # AdamW's square roots take one list the size of the weights, after the activations are gone.
    temporaries = weights if process.optimizer == "adamw" else 0.0
    if activations >= temporaries:
        how = f"{saved:.4g} MiB a sample x {process.per_gpu_batch} ({facts.how})"
        items.append(MemoryItem(name="activations", gib=activations, how=how))
    else:
        items.append(MemoryItem(name="optimizer temporaries", gib=temporaries, how="more than the activations"))
    return items


def _outside(process: TrainingProcess) -> list[MemoryItem]:
    """Return what lies outside the allocator."""
    what = "libraries of the process" if process.device == "cpu" else "device context and libraries"
    items = [MemoryItem(name="context", gib=_CONTEXT_GIB[process.device], how=what)]
    if process.world_size > 1 and process.device == "cuda":
        items.append(MemoryItem(name="NCCL", gib=_NCCL_GIB, how="communication buffers"))
    return items


def _optimizer_state(process: TrainingProcess) -> tuple[float, str]:
    """Return fp32 copies of the weights that the optimizer keeps, and which."""
    if process.optimizer == "adamw":
        return 2, "AdamW: two moments in fp32"
    if process.momentum > 0:
        return 1, "SGD: momentum in fp32"
    return 0, "SGD without momentum keeps none"
