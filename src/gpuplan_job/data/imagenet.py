"""ImageNet-1k as a description, so that a run on it can be planned before its 150 GB are anywhere near."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.contract import DataDescription
from gpuplan_job.data import DataError

if TYPE_CHECKING:
    from gpuplan_job.data import Samples

_MEAN_JPEG_BYTES = 110_000.0


def describe(argument: str) -> DataDescription:
    """Return the published figures of ILSVRC 2012.

    Raises:
        DataError: something stands after the name.
    """
    if argument:
        raise DataError("imagenet takes no argument; for images you have, use imagefolder:PATH")
    return DataDescription(
        train_samples=1_281_167,
        val_samples=50_000,
        channels=3,
        height=224,
        width=224,
        classes=1000,
        bytes_per_sample=_MEAN_JPEG_BYTES,
        storage="jpeg",
        plan_only=True,
        source="ILSVRC 2012 classification, Russakovsky et al. 2015, doi 10.1007/s11263-015-0816-y",
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Refuse: a description holds no images.

    Raises:
        DataError: always.
    """
    del argument, image_size
    raise DataError("imagenet is a description for plans; give the location: imagefolder:PATH with train/ and val/")
