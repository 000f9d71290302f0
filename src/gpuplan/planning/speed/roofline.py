"""Seconds that a GPU computes on a micro-batch: each kernel of the trace at its arithmetic or its memory bandwidth.

Called by `throughput` and by the calibration in benchmarks/. Pure arithmetic on a trace; it knows no instance. Formula,
calibration and measured errors: docs/estimates-time.md.
"""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpuplan_job.step_trace import StepTrace

TABLE = Path(__file__).with_name("efficiencies.csv")
Arithmetic = Literal["half", "tf32", "fp32"]
GpuBound = Literal["compute", "memory bandwidth", "launch"]

_FREE = frozenset({"_unsafe_view", "view", "alias"})
"""Recorded, but no kernel runs."""
_EXACT = {
    "mm": "matmul",
    "addmm": "matmul",
    "bmm": "batched matmul",
    "baddbmm": "batched matmul",
    "mean": "reduction",
    "sum": "reduction",
    "embedding": "copy",
    "embedding_dense_backward": "copy",
    "_to_copy": "copy",
    "copy_": "copy",
    "clone": "copy",
    "cat": "copy",
    "stack": "copy",
    "roll": "copy",
    "index": "copy",
    "constant_pad_nd": "copy",
    "slice_backward": "copy",
    "select_backward": "copy",
}
_PARTS = (
    ("convolution_backward/grouped", "grouped convolution backward"),
    ("convolution_backward/depthwise", "depthwise convolution backward"),
    ("convolution_backward", "convolution backward"),
    ("convolution/grouped", "grouped convolution"),
    ("convolution/depthwise", "depthwise convolution"),
    ("convolution", "convolution"),
    ("attention", "attention"),
    ("batch_norm", "batch norm"),
    ("layer_norm", "layer norm"),
    ("group_norm", "layer norm"),
    ("softmax", "softmax"),
    ("pool", "pooling"),
    ("upsample", "pooling"),
)
_REST = "pointwise"
_FP32_CORES = frozenset({"depthwise convolution", "depthwise convolution backward"})
"""Never run on tensor cores."""
_REFERENCE = 71e12 / 936e9
"""Flops a byte at which the RTX 3090's tensor peak and bandwidth balance: most rows are of that GPU."""
_MATMULS = frozenset({"matmul", "batched matmul", "attention"})


class Efficiency(NamedTuple):
    """Of a kind of kernel: the share it reaches of the GPU's arithmetic in each format, and of its bandwidth."""

    half: float
    tf32: float
    fp32: float
    bandwidth: float


class Speeds(NamedTuple):
    """Published peaks of a GPU, and the arithmetic that a precision gets on it."""

    half_tflops: float
    """Dense fp16 or bf16 tensor peak."""
    tf32_tflops: float | None
    """Dense TF32 tensor peak; None where there is none, before Ampere."""
    fp32_tflops: float
    bandwidth_gbs: float
    mixed: bool
    """Autocast: convolutions and products of matrices in half precision."""
    tf32_matmul: bool = False
    """Whether fp32 products of matrices may use TF32: off in PyTorch, on in NVIDIA's containers. Convolutions may."""


class Shares(NamedTuple):
    """What a GPU reaches of its published peaks, by kind of kernel."""

    kinds: Mapping[str, Efficiency]
    gap_seconds: float
    """Between two kernels."""
    reach: float
    """Exponent: shares of tensor peaks fall as (tensor peak / bandwidth) ** -reach, against the RTX 3090's."""


class GpuTime(NamedTuple):
    """Seconds of one micro-batch on the GPU, and what they go into."""

    seconds: float
    """Forward and backward pass."""
    backward: float
    """Of these, the backward pass."""
    computing: float
    """Of these, kernels that wait for arithmetic."""
    moving: float
    """Of these, kernels that wait for memory; the rest are gaps."""
    forward_launches: int
    backward_launches: int
    """Kernels started."""


def gpu_time(trace: StepTrace, batch: int, speeds: Speeds, shares: Shares | None = None) -> GpuTime:
    """Return the time of one forward and backward pass of `batch` samples.

    Each kernel takes max(flops / (share x peak), bytes / (share x bandwidth)) plus a gap: the roofline of Williams,
    Waterman and Patterson (CACM 2009), kernel by kernel. `shares` are the shipped ones unless others are given.
    """
    shares = efficiencies() if shares is None else shares
    arithmetic = {
        kind: 1 / _flops_per_second(kind, share, speeds, shares.reach) for kind, share in shares.kinds.items()
    }
    memory = {kind: 1 / (share.bandwidth * speeds.bandwidth_gbs * 1e9) for kind, share in shares.kinds.items()}
    computing, moving = 0.0, 0.0
    backward, launches = 0.0, [0, 0]
    of = trace.operations
    columns = (of.name, of.count, of.flops_fixed, of.flops_per_sample, of.bytes_fixed, of.bytes_per_sample, of.forward)
    for name, count, flops_fixed, flops_each, bytes_fixed, bytes_each, forward in zip(*columns, strict=True):
        kind = kind_of(name)
        if kind is None:
            continue
        computes = max(0.0, flops_fixed + flops_each * batch) * arithmetic[kind]
        moves = max(0.0, bytes_fixed + bytes_each * batch) * memory[kind]
        if computes > moves:
            computing += count * computes
        else:
            moving += count * moves
        launches[forward] += count
        if not forward:
            backward += count * (max(computes, moves) + shares.gap_seconds)
    gaps = sum(launches) * shares.gap_seconds
    return GpuTime(computing + moving + gaps, backward, computing, moving, launches[True], launches[False])


@cache
def kind_of(operator: str) -> str | None:
    """Return which row of the table an operator of a trace belongs to; None for one that starts no kernel."""
    if operator in _FREE:
        return None
    if operator in _EXACT:
        return _EXACT[operator]
    return next((kind for part, kind in _PARTS if part in operator), _REST)


def arithmetic_of(kind: str, speeds: Speeds) -> Arithmetic:
    """Return the arithmetic in which a kind of kernel runs."""
    if kind in _FP32_CORES:
        return "fp32"
    if speeds.mixed:
        return "half"
    allowed = speeds.tf32_matmul if kind in _MATMULS else True
    return "tf32" if allowed and speeds.tf32_tflops is not None else "fp32"


@cache
def efficiencies() -> Shares:
    """Return the shipped shares; benchmarks/time_calibration.py wrote them."""
    return read(TABLE.read_text(encoding="utf-8"))


def read(text: str) -> Shares:
    """Return the shares of a table like efficiencies.csv."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    kinds = {
        row["kind"]: Efficiency(*(float(row[column]) for column in ("half", "tf32", "fp32", "bandwidth")))
        for row in csv.DictReader(lines)
    }
    return Shares(gap_seconds=kinds.pop("gap").bandwidth, reach=kinds.pop("reach").half, kinds=kinds)


def optimizer_seconds(
    parameter_bytes: float, accesses: float, bandwidth_gbs: float, shares: Shares | None = None
) -> float:
    """Return the seconds of an optimizer step that reads or writes each parameter's bytes `accesses` times."""
    share = (efficiencies() if shares is None else shares).kinds["optimizer"].bandwidth
    return parameter_bytes * accesses / (share * bandwidth_gbs * 1e9)


def reach_of(speeds: Speeds, exponent: float) -> float:
    """Return the factor on shares of tensor peaks: the more arithmetic a GPU has a byte, the less of it is reached."""
    return math.exp(-exponent * math.log(speeds.half_tflops * 1e12 / (speeds.bandwidth_gbs * 1e9) / _REFERENCE))


def _flops_per_second(kind: str, share: Efficiency, speeds: Speeds, exponent: float) -> float:
    """Return the arithmetic that a kind of kernel reaches."""
    arithmetic = arithmetic_of(kind, speeds)
    if arithmetic == "half":
        return share.half * reach_of(speeds, exponent) * speeds.half_tflops * 1e12
    if arithmetic == "tf32" and speeds.tf32_tflops is not None:
        return share.tf32 * reach_of(speeds, exponent) * speeds.tf32_tflops * 1e12
    return share.fp32 * speeds.fp32_tflops * 1e12
