"""`imagefolder:PATH`: one folder of images a class, in PATH/train and PATH/val, or in PATH itself (split about 90/10).

Called through `gpuplan_job.data`. The same listing serves the plan and the job, so both count the same images; of
`imagefolder:s3://...` the plan is told the counts, and the job checks them. `describe` must not import torch.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job.data import _image_listing, _location

if TYPE_CHECKING:
    from gpuplan_job.contract import DataDescription
    from gpuplan_job.data import Samples
    from gpuplan_job.data._image_listing import Folder

_MOST_SIZED = 1000
"""Files whose size is looked up; JPEG sizes scatter by about their mean, so that of 1000 is known to some 3 %."""

pin = _image_listing.pinned
s3_location = _location.uri


def describe(argument: str) -> DataDescription:
    """State what a plan needs, from the names of the files and the sizes of up to 1000 spread evenly over them.

    Of a location on S3 it is what the argument states: `s3://BUCKET/PREFIX?train=N&val=N&classes=N&bytes=N`. The next
    `load` of the same argument in this process takes the listing made here.

    Raises:
        DataError: the folder is missing, empty, unreadable, or its classes do not fit together; the figures of a
            location on S3 are not stated.
    """
    if _location.is_one(argument):
        return _image_listing.stated(argument)
    _described.cache_clear()
    folder = _described(argument)
    sized = folder.train[:: -(-len(folder.train) // _MOST_SIZED)]
    with _image_listing.refusing_unreadable(argument):
        stored = sum(Path(path).stat().st_size for path, _ in sized)
    return _image_listing.description(
        train=len(folder.train),
        val=len(folder.val),
        classes=len(folder.classes),
        bytes_per_sample=stored / len(sized),
        source=f"files under {argument}",
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets: augmented training images and centred validation images [3, side, side].

    Raises:
        DataError: as `describe`; reading a sample that is no image raises it too and names the file.
    """
    from gpuplan_job.data._image_files import image_files

    if _location.is_one(argument):
        told = _image_listing.stated(argument)
        return image_files(_image_listing.scan_channel(f"imagefolder:{argument}", told), image_size)
    folder = _described(argument)
    _described.cache_clear()  # one use: a later load sees what the folder holds then
    return image_files(folder, image_size)


@functools.lru_cache(maxsize=1)
def _described(argument: str) -> Folder:
    """Scan once for a description and the load that follows it: a listing of a large set takes minutes on a network."""
    return _image_listing.scan(argument)
