"""Where data lie on S3, as a spec's argument names it: `s3://BUCKET/PREFIX`, with what a plan needs stated after `?`.

Used by the kinds that can be read from S3. Nothing here talks to S3: the client states the location in its request, the
job finds the files in its training channel. Standard library only.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gpuplan_job.data import TRAINING_CHANNEL_VARIABLE, DataError

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/=+@,:-]*", re.ASCII)
_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
_LEAST = {"train": 1, "val": 1, "classes": 2, "bytes": 1}
_EXAMPLE = "train=1281167&val=50000&classes=1000&bytes=110000"
_LONGEST_PREFIX = 900
"""Characters; a key holds 1024, and the names of classes and files come after."""


@dataclass(frozen=True)
class Location:
    """A folder on S3: `uri` ends with a slash, so that it names nothing that only begins alike; `query` as written."""

    uri: str
    query: str


def is_one(argument: str) -> bool:
    """Tell whether a spec's argument names a location on S3, or is meant to."""
    return argument.startswith(SCHEME)


def uri(argument: str) -> str | None:
    """Return the `s3://BUCKET/PREFIX/` of an argument that names one, else None.

    Raises:
        DataError: it is no bucket and prefix.
    """
    return parse(argument).uri if is_one(argument) else None


def parse(argument: str) -> Location:
    """Return the location that a spec's argument names.

    Raises:
        DataError: it is not `s3://BUCKET/PREFIX`, or has characters that are not allowed there.
    """
    address, _, query = argument.removeprefix(SCHEME).partition("?")
    bucket, _, prefix = address.partition("/")
    if not is_one(argument) or not bucket:
        raise DataError(f"{argument!r} names no bucket: write s3://BUCKET/PREFIX")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _IP_ADDRESS.fullmatch(bucket):
        raise DataError(f"{bucket!r} cannot be an S3 bucket: 3 to 63 of a-z, 0-9, '-' and '.', no upper case")
    trimmed = prefix.removesuffix("/")
    if not _PREFIX.fullmatch(trimmed) or len(trimmed) > _LONGEST_PREFIX:
        raise DataError(
            f"the prefix {prefix!r} has characters that are not safe in S3 keys, or more than {_LONGEST_PREFIX}: "
            "use letters, digits and ! _ . * ' ( ) = + @ , : -"
        )
    if prefix and any(part in ("", ".", "..") for part in trimmed.split("/")):
        raise DataError(f"the prefix {prefix!r} has an empty part, '.' or '..' between its slashes: leave it out")
    return Location(f"{SCHEME}{bucket}/{trimmed}{'/' if trimmed else ''}", query)


def figures(location: Location, *, shards: bool = False) -> dict[str, int]:
    """Return the numbers stated after the `?`: train, val, classes, bytes (stored, per training image), maybe shards.

    Raises:
        DataError: one is missing, unknown, stated twice or not a whole number in range.
    """
    least, example = (_LEAST | {"shards": 1}, f"{_EXAMPLE}&shards=1000") if shards else (_LEAST, _EXAMPLE)
    found: dict[str, int] = {}
    for item in filter(None, location.query.split("&")):
        name, _, number = item.partition("=")
        if name not in least or name in found or not _NUMBER.fullmatch(number) or int(number) < least[name]:
            raise DataError(f"{item!r} is not one of {example}, each stated once, with at least 2 classes")
        found[name] = int(number)
    missing = [name for name in least if name not in found]
    if missing:
        raise DataError(
            f"{location.uri} is not read while planning, so {', '.join(missing)} must be stated: "
            f"{location.uri}?{example} (bytes: stored bytes per training image)"
        )
    return found


def channel(spec: str) -> Path:
    """Return the folder in which this process finds the data of a spec that lie on S3.

    Raises:
        DataError: nothing was brought here: this is no job on AWS.
    """
    folder = os.environ.get(TRAINING_CHANNEL_VARIABLE)
    if not folder:
        raise DataError(f"{spec} lies on S3 and was not brought to this machine: train on AWS, or give a path")
    return Path(folder)
