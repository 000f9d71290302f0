"""ImageNet-1k: `imagenet` describes it, to plan before its 150 GB are near; `imagenet:s3://...` says where they lie.

Called through `gpuplan_job.data`. The published figures serve the plan, and the job checks them against the files.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan_job.data import DataError, _image_listing, _location

if TYPE_CHECKING:
    from gpuplan_job.contract import DataDescription
    from gpuplan_job.data import Samples

_FIGURES = _image_listing.description(
    train=1_281_167,
    val=50_000,
    classes=1000,
    bytes_per_sample=110_000.0,
    source="ILSVRC 2012 classification, Russakovsky et al. 2015, doi 10.1007/s11263-015-0816-y",
)


def describe(argument: str) -> DataDescription:
    """Return the published figures of ILSVRC 2012; without a location they are for plans only.

    Raises:
        DataError: what stands after the name is no location on S3.
    """
    return replace(_FIGURES, plan_only=s3_location(argument) is None)


def s3_location(argument: str) -> str | None:
    """Return the `s3://BUCKET/PREFIX/` that the argument names, None where there is no argument.

    Raises:
        DataError: it is no bucket and prefix.
    """
    if not argument:
        return None
    if not _location.is_one(argument):
        raise DataError("imagenet takes a location on S3 or nothing; for images you have, use imagefolder:PATH")
    location = _location.parse(argument)
    if location.query:
        raise DataError(f"{location.query!r}: the figures of imagenet are known; leave out what stands after '?'")
    return location.uri


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets as `imagefolder` does.

    Raises:
        DataError: there is no location, nothing was brought from it, or it does not hold the images of ILSVRC 2012.
    """
    if s3_location(argument) is None:
        raise DataError("imagenet is a description for plans; give the location: imagenet:s3://BUCKET/PREFIX")
    from gpuplan_job.data._image_files import image_files

    return image_files(_image_listing.scan_channel(f"imagenet:{argument}", _FIGURES), image_size)
