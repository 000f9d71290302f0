"""`digits`: 1,797 real 8x8 images of handwritten digits, shipped with the package, for demonstrations and tests.

Called through `gpuplan_job.data`. Source and licence are in DIGITS-NOTICE.md beside this file; `scripts/make_digits.py`
wrote the archive. `describe` must not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job.contract import DataDescription
from gpuplan_job.data import DataError

if TYPE_CHECKING:
    from gpuplan_job.data import Samples

ARCHIVE = Path(__file__).with_name("digits.npz")
_TRAIN, _VAL, _CLASSES, _SIDE, _LEVELS = 1437, 360, 10, 8, 16


def describe(argument: str) -> DataDescription:
    """State what a plan needs.

    Raises:
        DataError: an argument was given.
    """
    _refuse(argument)
    return DataDescription(
        train_samples=_TRAIN,
        val_samples=_VAL,
        channels=1,
        height=_SIDE,
        width=_SIDE,
        classes=_CLASSES,
        bytes_per_sample=float(_SIDE * _SIDE),
        source="Optical Recognition of Handwritten Digits, UCI, doi 10.24432/C50P49",
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets, images [1, side, side] with zero mean and unit variance over the training images.

    Raises:
        DataError: an argument was given, or the archive is not beside this file.
    """
    _refuse(argument)
    import numpy as np
    import torch
    from torch.nn import functional

    from gpuplan_job.data._in_memory import InMemory

    try:
        with np.load(ARCHIVE, allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name].astype(np.int64)) for name in stored.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{ARCHIVE.name} is missing from the package or damaged: {error}") from error
    images = arrays["images"].unsqueeze(1).float() / _LEVELS
    train, val = arrays["train"], arrays["val"]
    images = (images - images[train].mean()) / images[train].std()
    if image_size is not None and image_size != _SIDE:
        images = functional.interpolate(images, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return InMemory(images[train], arrays["labels"][train]), InMemory(images[val], arrays["labels"][val])


def _refuse(argument: str) -> None:
    if argument:
        raise DataError(f"digits takes no argument, found {argument!r}: use --data digits")
