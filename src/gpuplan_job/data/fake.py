"""`fake:CxHxW:classes:samples`: images that are made, not stored, and can be learned; to rehearse shapes and speed.

Called through `gpuplan_job.data`. A tenth of the samples is the validation set. `describe` must not import torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan_job.contract import DataDescription
from gpuplan_job.data import DataError

if TYPE_CHECKING:
    from gpuplan_job.data import Samples

_FORM = re.compile(r"(\d{1,4})x(\d{1,5})x(\d{1,5}):(\d{1,7}):(\d{1,12})", re.ASCII)
_VAL_SHARE = 10


@dataclass(frozen=True)
class _Shape:
    channels: int
    height: int
    width: int
    classes: int
    samples: int

    @property
    def val_samples(self) -> int:
        return max(1, self.samples // _VAL_SHARE)


def describe(argument: str) -> DataDescription:
    """State what a plan needs.

    Raises:
        DataError: the argument is malformed.
    """
    shape = _parse(argument)
    return DataDescription(
        train_samples=shape.samples - shape.val_samples,
        val_samples=shape.val_samples,
        channels=shape.channels,
        height=shape.height,
        width=shape.width,
        classes=shape.classes,
        bytes_per_sample=0.0,
        source="made by the job, nothing is read",
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets; sample i is the same on every machine and in every epoch.

    Raises:
        DataError: the argument is malformed.
    """
    from gpuplan_job.data._patterns import Patterns

    shape = _parse(argument)
    sides = (image_size, image_size) if image_size else (shape.height, shape.width)
    split = shape.samples - shape.val_samples
    size = (shape.channels, *sides)
    return (
        Patterns(range(split), size, shape.classes),
        Patterns(range(split, shape.samples), size, shape.classes),
    )


def _parse(argument: str) -> _Shape:
    found = _FORM.fullmatch(argument)
    if found is None:
        raise DataError(f"fake data needs CxHxW:classes:samples, found {argument!r}: for example fake:3x32x32:10:1000")
    shape = _Shape(*map(int, found.groups()))
    if min(shape.channels, shape.height, shape.width) < 1:
        raise DataError(f"fake:{argument}: channels, height and width must be at least 1")
    if shape.classes < 2:  # noqa: PLR2004 - one class leaves nothing to tell apart
        raise DataError(f"fake:{argument}: at least 2 classes are needed")
    if shape.samples < 2 * shape.classes:
        raise DataError(f"fake:{argument}: {shape.classes} classes need at least {2 * shape.classes} samples")
    return shape
