"""What is known of a named model without building it: parameters, FLOPs, bytes kept for the backward pass.

Read by `memory` and `throughput` from the shipped table that scripts/make_model_table.py measured. It imports no torch
and guesses no model that is not in the table.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.names import did_you_mean

TABLE = Path(__file__).with_name("torchvision_models.csv")
SMALL_SIDE = 64
"""Pixels below which the payload builds a model with a small stem: its figures stand in rows of their own."""
_TABLE_CLASSES = 1000
_STRIDE = 32
"""Of the last feature map: sides that it divides leave nothing to round."""
_ROUNDING_PIXELS = 13.0
"""Error of interpolation x side: +-15 % at 86 px on five families (benchmarks/rough_memory.py)."""
_NEAR = 0.8
"""Smallest side that is scaled to from the smallest measured one, as a share of it: the model may not run below."""


class ModelFacts(Frozen):
    """One model at one image size and class count; per-sample figures are of a forward pass."""

    name: str
    image_size: int
    """Side in pixels."""
    classes: int
    parameters: int
    buffers: int
    """Elements of buffers, BatchNorm's running statistics above all."""
    forward_gflop: float
    """Per sample, a multiply-add counted as two."""
    saved_mib: float
    """MiB a sample keeps for the backward pass in fp32, the input included, the weights not."""
    saved_mib_mixed: float
    """The same under autocast."""
    operations: int
    """Operators of a forward pass: about as many kernels are launched."""
    size_error: float = 0.0
    """Share by which per-sample figures may be off because this image size was not measured."""
    how: str
    """Where the figures come from, with what was scaled."""


class Point(NamedTuple):
    """A row of the table: a model measured at one image size."""

    image_size: int
    parameters: int
    parameters_per_class: int
    buffers: int
    forward_gflop: float
    saved_mib: float
    saved_mib_mixed: float
    operations: int


def lookup(model: str, image_size: int | None = None, classes: int = 1000) -> ModelFacts | Unknown:
    """Return the facts of a torchvision classification model, or why they are not known.

    `image_size` is the side in pixels; None is 224. Between measured sizes figures are interpolated linearly in the
    area, past the largest they grow with the area: exact for convolutions where the side is a multiple of 32, off by
    `size_error` between (feature maps round), too low for attention past the largest size. Below 64 px the stem is the
    payload's small one, measured as such. Colour channels other than three change the first layer only: neglected.
    """
    points = table().get(model)
    if points is None:
        hint = did_you_mean(model, table()) if ":" not in model else "a class of your own has to be measured"
        return Unknown(unknown=f"{model!r} is not in the table of torchvision models; {hint}")
    side = 224 if image_size is None else image_size
    usable = tuple(p for p in points if (p.image_size < SMALL_SIDE) == (side < SMALL_SIDE))
    if not usable or side < _NEAR * usable[0].image_size:
        return Unknown(unknown=f"{model} was not measured near {side} px; it may not take images that small")
    at_side, how = at(usable, side)
    exact = side % _STRIDE == 0 or any(p.image_size == side for p in usable)
    return ModelFacts(
        name=model,
        image_size=side,
        classes=classes,
        parameters=at_side.parameters + (classes - _TABLE_CLASSES) * at_side.parameters_per_class,
        buffers=at_side.buffers,
        forward_gflop=at_side.forward_gflop,
        saved_mib=at_side.saved_mib,
        saved_mib_mixed=at_side.saved_mib_mixed,
        operations=at_side.operations,
        size_error=0.0 if exact else _ROUNDING_PIXELS / side,
        how=f"torchvision {model}, {how}",
    )


def at(points: tuple[Point, ...], side: int) -> tuple[Point, str]:
    """Return the figures at a side in pixels from points in order of size, and how they came about."""
    below = [p for p in points if p.image_size <= side]
    above = [p for p in points if p.image_size >= side]
    if below and above and below[-1] is above[0]:
        return above[0], f"measured at {side} px"
    if not (below and above):
        nearest = (below or above[:1])[-1]
        return _scaled(nearest, side), f"scaled by area from {nearest.image_size} px"
    low, high = below[-1], above[0]
    weight = (side**2 - low.image_size**2) / (high.image_size**2 - low.image_size**2)
    mixed = [a + (b - a) * weight for a, b in zip(_per_sample(low), _per_sample(high), strict=True)]
    nearest = low if weight < 1 / 2 else high
    how = f"interpolated between {low.image_size} and {high.image_size} px"
    return _with(nearest, side, mixed), how


@cache
def table() -> dict[str, tuple[Point, ...]]:
    """Return the shipped table: each model's measured points, smallest image first."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows: dict[str, list[Point]] = {}
    for line in lines[2:]:
        name, side, parameters, per_class, buffers, gflop, fp32, mixed, operations = line.split(",")
        counts = (int(side), int(parameters), int(per_class), int(buffers))
        rows.setdefault(name, []).append(Point(*counts, float(gflop), float(fp32), float(mixed), int(operations)))
    return {name: tuple(points) for name, points in rows.items()}


def _per_sample(point: Point) -> tuple[float, float, float]:
    return point.forward_gflop, point.saved_mib, point.saved_mib_mixed


def _scaled(point: Point, side: int) -> Point:
    return _with(point, side, [value * (side / point.image_size) ** 2 for value in _per_sample(point)])


def _with(point: Point, side: int, values: list[float]) -> Point:
    gflop, fp32, mixed = values
    return point._replace(image_size=side, forward_gflop=gflop, saved_mib=fp32, saved_mib_mixed=mixed)
