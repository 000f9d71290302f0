"""How data on S3 reach a SageMaker job, copied before it starts or read as it opens them, and what each takes. Pure.

Called by `steps`, which plans a range test as `streamed` and a training as `copied`. It knows no prices and no steps.
All figures are about S3, not measured here; their standing is also in docs/estimates-time.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from gpuplan.planning.speed.communication import NETWORK_SHARE
from gpuplan_job import data

if TYPE_CHECKING:
    from gpuplan.planning.speed.machine import Hardware
    from gpuplan_job.contract import DataDescription

S3Data = Literal["copied", "streamed"]
"""`copied`: SageMaker's input mode File; `streamed`: FastFile."""

LIST_PAGE = 1000
"""Objects that one LIST request names: S3's own limit."""
_LIST_SECONDS = 0.1
"""Of one LIST request, the next after it: an assumption. S3 answers small requests in tens of milliseconds; 1.9 to
7.1 s a page were logged in a Lambda function, whose CPU is small."""
_COPY_SECONDS_PER_GB = 300 / 50
"""AWS's guide to input modes: File mode takes about 5 minutes for 50 GB in files of 100 MB, and longer for small files.
It names no instance, so it counts where the network alone would be faster."""
_P90 = 2.0
"""Times the p50 of both: an assumption."""
_BITS = 8
_GIGA = 1e9
_SECONDS_PER_MINUTE = 60


def on_s3(spec: str, description: DataDescription) -> bool:
    """Tell whether a job finds the data on S3: they are there, or it is the description of what will be."""
    return description.plan_only or data.s3_location(spec) is not None


def stored_bytes(description: DataDescription) -> float:
    """Return the bytes of all samples as they are stored."""
    return (description.train_samples + description.val_samples) * description.bytes_per_sample


def list_requests(description: DataDescription) -> int:
    """Return how many requests list all objects of the data."""
    return math.ceil(objects(description) / LIST_PAGE)


def objects(description: DataDescription) -> int:
    """Return how many objects hold the data: a sample each, where nothing else is known."""
    return description.train_samples + description.val_samples if description.files is None else description.files


def startup_minutes(how: S3Data, description: DataDescription, hardware: Hardware) -> tuple[float, float] | None:
    """Return the billed minutes, p50 and p90, before the first step for the data's sake; None where nobody knows.

    copied: all bytes / (0.7 of the instance's baseline network bandwidth), no faster than AWS says of File mode; each
    of several instances copies all. streamed: one LIST request after the other.
    """
    if how == "streamed":
        seconds = _LIST_SECONDS * list_requests(description)
    elif hardware.network_gbps is None:
        return None
    else:
        size = stored_bytes(description) / _GIGA
        seconds = size * max(_BITS / (NETWORK_SHARE * hardware.network_gbps), _COPY_SECONDS_PER_GB)
    return seconds / _SECONDS_PER_MINUTE, _P90 * seconds / _SECONDS_PER_MINUTE
