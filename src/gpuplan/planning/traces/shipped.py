"""Traces of torchvision's classification models that ship with gpuplan, so that a plan needs no torch.

Read by `traces`, written by scripts/make_traces.py. A file a model: an index, then a trace a line, compressed together.
What was not traced is scaled from what was, where that is exact or nearly so, and the result says so.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpuplan_job.model_sides import SMALL_SIDE
from gpuplan_job.step_trace import StepTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan_job.step_trace import Arithmetic, TraceRequest

FOLDER = Path(__file__).with_name("torchvision")
SUFFIX = ".json.xz"
CLASSES = 997
"""Classes that shipped traces have. It is prime, and no layer is this wide: what depends on it can be divided by it."""
_STRIDE = 32
"""Of the last feature map: sides that it divides leave nothing to round."""
_ROUNDING_PIXELS = 13.0
"""Error of scaling x side: +-15 % at 86 px on five families of networks."""
_NEAR = 0.8
"""Smallest side that is scaled to from the smallest traced one, as a share of it: the model may not run below."""


class Shipped(NamedTuple):
    """A trace for a request, and what its sizes may be off by because this image size was not traced."""

    trace: StepTrace
    size_error: float
    how: str


@cache
def names() -> tuple[str, ...]:
    """Return the models there are traces of, sorted."""
    return tuple(sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}")))


def pack(traces: Sequence[StepTrace]) -> bytes:
    """Return a model's file."""
    index = [[trace.request.inputs.height, trace.request.arithmetic] for trace in traces]
    lines = [json.dumps(index), *(trace.to_json() for trace in traces)]
    return lzma.compress("\n".join(lines).encode(), preset=9)


def find(request: TraceRequest) -> Shipped | None:
    """Return the trace for a request, scaled in image size and classes where need be; None if nothing here serves.

    Between traced sizes every allocation grows linearly with the area, past the largest in proportion to it: exact for
    convolutions where the side is a multiple of 32, off by `size_error` between, where feature maps round. The first
    layer of images with other than three channels keeps its size.
    """
    inputs = request.inputs
    if request.checkpointing or inputs.kind != "images" or inputs.height != inputs.width:
        return None
    sides = _sides(request.model, request.arithmetic, small=inputs.height < SMALL_SIDE)
    side = inputs.height
    if not sides or side < _NEAR * sides[0]:
        return None
    found, how = _at_side(request.model, request.arithmetic, sides, side)
    if found is None:
        return None
    exact = side in sides or (side % _STRIDE == 0 and side >= SMALL_SIDE)
    scaled = _with_classes(found, request)
    return Shipped(scaled, 0.0 if exact else _ROUNDING_PIXELS / side, f"torchvision {request.model}, {how}")


def example(model: str) -> StepTrace | None:
    """Return some trace of a model, for what does not depend on image size or arithmetic; None if none ships."""
    index, traces = _lines(model)
    return StepTrace.from_json(traces[0]) if index else None


def _at_side(model: str, arithmetic: Arithmetic, sides: Sequence[int], side: int) -> tuple[StepTrace | None, str]:
    below = [known for known in sides if known <= side]
    above = [known for known in sides if known >= side]
    if below and below[-1] == side:
        return _load(model, arithmetic, side), f"traced at {side} px"
    if below and above:
        low, high = below[-1], above[0]
        weight = (side**2 - low**2) / (high**2 - low**2)
        line = _between(_load(model, arithmetic, low), _load(model, arithmetic, high), weight)
        if line is not None:
            return line, f"scaled between {low} and {high} px"
    nearest = (below or above)[-1 if below else 0]
    known = _load(model, arithmetic, nearest)
    if len(sides) > 1 and not above:
        line = _between(_load(model, arithmetic, sides[-2]), known, _beyond(sides[-2], sides[-1], side))
        if line is not None:
            return line, f"scaled from {sides[-2]} and {nearest} px"
    return _in_area(known, (side / nearest) ** 2), f"scaled by area from {nearest} px"


def _beyond(low: int, high: int, side: int) -> float:
    return (side**2 - low**2) / (high**2 - low**2)


def _between(low: StepTrace, high: StepTrace, weight: float) -> StepTrace | None:
    """Return low + weight x (high - low), figure by figure; None where they are not one program."""
    programs = [(t.forward, t.backward, t.outputs, t.operations.name, t.operations.count) for t in (low, high)]
    if programs[0] != programs[1] or low.trainable != high.trainable:
        return None

    def line(a: Sequence[float], b: Sequence[float]) -> list[float]:
        return [x + (y - x) * weight for x, y in zip(a, b, strict=True)]

    allocations = dataclasses.replace(
        low.allocations,
        fixed=line(low.allocations.fixed, high.allocations.fixed),
        per_sample=line(low.allocations.per_sample, high.allocations.per_sample),
    )
    one, other = low.operations, high.operations
    operations = dataclasses.replace(
        one,
        flops_fixed=line(one.flops_fixed, other.flops_fixed),
        flops_per_sample=line(one.flops_per_sample, other.flops_per_sample),
        bytes_fixed=line(one.bytes_fixed, other.bytes_fixed),
        bytes_per_sample=line(one.bytes_per_sample, other.bytes_per_sample),
    )
    return dataclasses.replace(
        low, allocations=allocations, operations=operations, inputs=line(low.inputs, high.inputs)
    )


def _in_area(trace: StepTrace, ratio: float) -> StepTrace:
    """Return the trace with all that a sample takes, computes and moves grown by a ratio of areas."""

    def grown(values: Sequence[float]) -> list[float]:
        return [value * ratio for value in values]

    operations = dataclasses.replace(
        trace.operations,
        flops_per_sample=grown(trace.operations.flops_per_sample),
        bytes_per_sample=grown(trace.operations.bytes_per_sample),
    )
    allocations = dataclasses.replace(trace.allocations, per_sample=grown(trace.allocations.per_sample))
    return dataclasses.replace(trace, allocations=allocations, operations=operations, inputs=grown(trace.inputs))


def _with_classes(trace: StepTrace, request: TraceRequest) -> StepTrace:
    """Return the trace of a request's own classes and channels; what a divisor of CLASSES tells of them is scaled."""
    classes = request.inputs.classes

    def scaled(values: Sequence[float]) -> list[float]:
        return [value / CLASSES * classes if value and value % CLASSES == 0 else value for value in values]

    allocations = dataclasses.replace(
        trace.allocations, fixed=scaled(trace.allocations.fixed), per_sample=scaled(trace.allocations.per_sample)
    )
    operations = dataclasses.replace(
        trace.operations,
        flops_fixed=scaled(trace.operations.flops_fixed),
        flops_per_sample=scaled(trace.operations.flops_per_sample),
        bytes_fixed=scaled(trace.operations.bytes_fixed),
        bytes_per_sample=scaled(trace.operations.bytes_per_sample),
    )
    images, *targets = trace.inputs
    return dataclasses.replace(
        trace,
        request=request,
        trainable=[round(size) for size in scaled(trace.trainable)],
        allocations=allocations,
        operations=operations,
        inputs=[images * request.inputs.channels / trace.request.inputs.channels, *targets],
    )


@cache
def _lines(model: str) -> tuple[tuple[tuple[int, str], ...], tuple[str, ...]]:
    path = FOLDER / f"{model}{SUFFIX}"
    if model not in names():
        return (), ()
    index, *traces = lzma.decompress(path.read_bytes()).decode().split("\n")
    return tuple((side, arithmetic) for side, arithmetic in json.loads(index)), tuple(traces)


def _sides(model: str, arithmetic: Arithmetic, *, small: bool) -> list[int]:
    index, _ = _lines(model)
    return [side for side, kind in index if kind == arithmetic and (side < SMALL_SIDE) == small]


@cache
def _load(model: str, arithmetic: Arithmetic, side: int) -> StepTrace:
    index, traces = _lines(model)
    return StepTrace.from_json(traces[index.index((side, arithmetic))])
