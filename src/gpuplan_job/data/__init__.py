"""Data kinds, one file each: `describe` states what a plan needs without torch, `load` builds the data sets in a job.

A data spec is `kind` or `kind:argument`, as in `digits`, `fake:3x32x32:10:1000`, `imagefolder:/data/flowers`. Importing
this package or a kind must not import torch: the client describes, only the job loads. What a user's own code loads,
`module:Class`, is no kind: `own_data` builds and describes it, and here it has neither a path nor a place on S3.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, cast

from gpuplan_job import discover

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from gpuplan_job.contract import DataDescription

    Samples = Dataset[tuple[Tensor, int]]

TRAINING_CHANNEL_VARIABLE = "GPUPLAN_TRAINING_CHANNEL"
"""Environment variable of a job whose data were brought from S3: the folder in which they lie."""


class DataError(ValueError):
    """The data named by a spec is absent, empty, unreadable or misspelt; the message says which and what to do."""


class Kind(Protocol):
    """What a file of this folder offers; `argument` is what stands after the colon.

    A kind whose argument is a path also offers `pin(argument)`, which returns it independent of the current folder; one
    that can be read from S3 offers `s3_location(argument)`, and says `COPIED = True` if a job must have the files whole
    before it starts.
    """

    def describe(self, argument: str) -> DataDescription:
        """State what a plan needs, reading no sample."""
        ...

    def load(self, argument: str, image_size: int | None) -> tuple[Samples, Samples]:
        """Return the training and the validation data set."""
        ...


def describe(spec: str) -> DataDescription:
    """Return samples, shape, classes and stored bytes of the data a spec names, without reading samples.

    Raises:
        DataError: the kind is unknown, its argument malformed, or the data is not there.
    """
    kind, argument = _split(spec)
    return kind.describe(argument)


def pinned(spec: str) -> str:
    """Return a spec that means the same from any current folder: a run is resumed from wherever its user stands.

    Raises:
        DataError: the kind is unknown or its argument malformed.
    """
    if _is_own(spec):
        return spec
    kind, argument = _split(spec)
    if not hasattr(kind, "pin"):
        return spec
    return f"{spec.partition(':')[0]}:{kind.pin(argument)}"


def s3_location(spec: str) -> str | None:
    """Return where on S3 the data of a spec lie, as `s3://BUCKET/PREFIX/`, or None for data that lie elsewhere.

    Raises:
        DataError: the kind is unknown, or what it names cannot be a bucket and a prefix.
    """
    if _is_own(spec):
        return None
    kind, argument = _split(spec)
    found: str | None = kind.s3_location(argument) if hasattr(kind, "s3_location") else None
    return found


def lies_on_this_machine(spec: str) -> bool:
    """Tell whether a spec names a path here: data that no other machine has.

    Raises:
        DataError: the kind is unknown or its argument malformed.
    """
    if _is_own(spec):
        return False
    kind, _ = _split(spec)
    return hasattr(kind, "pin") and s3_location(spec) is None


def streams(spec: str) -> bool:
    """Tell whether a job can open single samples of a spec's data on S3, without a copy of everything first.

    Raises:
        DataError: the kind is unknown.
    """
    return not getattr(_split(spec)[0], "COPIED", False)


def load(spec: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return (training, validation) data sets of (image float tensor [C, H, W], class int) pairs. Imports torch.

    `image_size` in pixels resizes to a square; None keeps the data's own size.

    Raises:
        DataError: the data cannot be read.
    """
    kind, argument = _split(spec)
    return kind.load(argument, image_size)


def _is_own(spec: str) -> bool:
    from gpuplan_job import own  # it asks this package for the kinds there are

    return own.is_own(spec)


def _split(spec: str) -> tuple[Kind, str]:
    name, _, argument = spec.partition(":")
    package = sys.modules[__name__]
    try:
        return cast("Kind", discover.load(package, name)), argument
    except LookupError as error:
        own = ", or module:Class of your own" if ":" in spec else ""
        raise DataError(f"unknown data {spec!r}: {error}{own}") from error
