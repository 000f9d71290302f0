"""`webdataset:SHARDS`: images and labels in tar archives, as WebDataset has them: `key.jpg` beside `key.cls`.

Called through `gpuplan_job.data`. SHARDS is a folder, or a pattern such as /data/{train-{000..099},val-{00..09}}.tar.
The same index serves the plan and the job; of `webdataset:s3://...` the plan is told the counts. `describe` must not
import torch.
"""

from __future__ import annotations

import functools
import os
from array import array
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

from gpuplan_job.data import DataError, _held_out, _image_listing, _location, _shards, _tar_index

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.contract import DataDescription
    from gpuplan_job.data import Samples

COPIED = True
"""A sample is a part of a large object: read by itself on S3 each costs a request and a wait, so shards are copied."""
_LEAST_CLASSES = 2

s3_location = _location.uri


@dataclass(frozen=True)
class ShardedSamples:
    """Samples in column form: a million of them are some 25 MB, shared by all data-loading processes."""

    shards: list[str]
    shard: array[int] = field(default_factory=lambda: array("i"))
    """Which of `shards` a sample lies in."""
    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("q"))
    label: array[int] = field(default_factory=lambda: array("i"))

    def add(self, shard: int, offset: int, size: int, label: int) -> None:
        """Append one sample."""
        self.shard.append(shard)
        self.offset.append(offset)
        self.size.append(size)
        self.label.append(label)

    def extend(self, others: ShardedSamples) -> None:
        """Append samples of the same shards."""
        for own, other in zip(self._columns(), others._columns(), strict=True):
            own.extend(other)

    def those(self, wanted: int, flags: bytearray) -> ShardedSamples:
        """Return the samples whose flag is `wanted`."""
        chosen = [flag == wanted for flag in flags]
        kept = (array(column.typecode, compress(column, chosen)) for column in self._columns())
        return ShardedSamples(self.shards, *kept)

    def __len__(self) -> int:
        return len(self.label)

    def _columns(self) -> tuple[array[int], ...]:
        return self.shard, self.offset, self.size, self.label


@dataclass(frozen=True)
class _Split:
    train: ShardedSamples
    val: ShardedSamples
    classes: int


def pin(argument: str) -> str:
    """Return the absolute pattern; a location on S3 is the same from anywhere.

    Raises:
        DataError: it names nobody's home, or begins with a brace.
    """
    if argument.startswith("{"):
        raise DataError(f"webdataset:{argument}: begin with the folder, as in ./{argument}")
    return _image_listing.pinned(argument)


def describe(argument: str) -> DataDescription:
    """State what a plan needs, from the headers of the shards and the labels in them.

    Of a location on S3 it is what the argument states: `s3://BUCKET/PREFIX?train=N&val=N&classes=N&bytes=N&shards=N`.
    The next `load` of the same argument in this process takes the index made here.

    Raises:
        DataError: a shard is missing or damaged, a sample lacks its image or label, a class lacks samples, or the
            figures of a location on S3 are not stated.
    """
    if _location.is_one(argument):
        return _image_listing.stated(argument, shards=True)
    _described.cache_clear()
    found = _described(argument)
    return _image_listing.description(
        train=len(found.train),
        val=len(found.val),
        classes=found.classes,
        bytes_per_sample=sum(found.train.size) / len(found.train),
        source=f"shards of {argument}",
        files=len(found.train.shards),
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets: augmented training images and centred validation images [3, side, side].

    Raises:
        DataError: as `describe`; reading a sample that is no image raises it too and names shard and member.
    """
    from gpuplan_job.data._shard_images import shard_images

    if not _location.is_one(argument):
        found = _described(argument)
        _described.cache_clear()  # one use: a later load sees what the shards hold then
        return shard_images(found.train, found.val, image_size)
    spec, stated = f"webdataset:{argument}", _image_listing.stated(argument, shards=True)
    root = _location.channel(spec)
    with _image_listing.refusing_unreadable(str(root)):
        found = _split(_shards.below(root))
    _image_listing.as_stated(spec, stated, train=len(found.train), val=len(found.val), classes=found.classes)
    return shard_images(found.train, found.val, image_size)


@functools.lru_cache(maxsize=1)
def _described(argument: str) -> _Split:
    if "://" in argument:
        raise DataError(f"webdataset:{argument}: give shards of this machine or s3://BUCKET/PREFIX")
    if not argument:
        raise DataError("webdataset needs shards: webdataset:FOLDER or webdataset:/data/train-{000..099}.tar")
    with _image_listing.refusing_unreadable(argument):
        return _split(_shards.named(argument))


def _split(shards: list[Path]) -> _Split:
    """Index all shards and part their samples, by the shards' names or about 90/10 within each class."""
    parts = _shards.parts(shards)
    every, places = _indexed(shards)
    if parts is None:
        validated = _held_out_of(every, places)
    else:
        validated = bytearray(parts[number] == "val" for number in every.shard)
    train, val = (every.those(wanted, validated) for wanted in (0, 1))
    return _Split(train, val, _classes(train, val))


def _indexed(shards: list[Path]) -> tuple[ShardedSamples, array[float]]:
    """Return all samples, and the place of each by its name.

    The ranks of a machine begin at different shards, and find in the cache what the others have read meanwhile.
    """
    here, ranks = (int(os.environ.get(name, least)) for name, least in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    first = len(shards) * here // ranks
    found = {}
    for number in (*range(first, len(shards)), *range(first)):
        found[number] = _of_one(number, shards[number])
    every, places = ShardedSamples([str(shard) for shard in shards]), array("d")
    for number in range(len(shards)):
        samples, placed = found.pop(number)
        every.extend(samples)
        places.extend(placed)
    return every, places


def _of_one(number: int, shard: Path) -> tuple[ShardedSamples, array[float]]:
    samples, places = ShardedSamples([]), array("d")
    for sample in _tar_index.index(shard):
        samples.add(number, sample.offset, sample.size, sample.label)
        # A key may come again in another shard, so the shard's name belongs to the place.
        places.append(_held_out.place(f"{shard.name}/{sample.member}"))
    return samples, places


def _held_out_of(every: ShardedSamples, places: array[float]) -> bytearray:
    """Return 1 for each sample to validate with, 0 for each to train on."""
    by_class: dict[int, array[int]] = {}
    for at, label in enumerate(every.label):
        by_class.setdefault(label, array("q")).append(at)
    validated = bytearray(len(every))
    for label, found in by_class.items():
        if len(found) == 1:
            raise DataError(f"class {label} has a single image: it cannot be both trained on and validated with")
        for position in _held_out.positions([places[at] for at in found]):
            validated[found[position]] = 1
    return validated


def _classes(train: ShardedSamples, val: ShardedSamples) -> int:
    """Return the number of classes: labels count from 0, and each is trained on."""
    there, validated = set(train.label), set(val.label)
    classes = max(there | validated, default=0) + 1
    missing = next((label for label in range(classes) if label not in there), None)
    if missing is not None:
        seen = " (validation has it)" if missing in validated else ""
        raise DataError(
            f"no training sample is of class {missing}{seen}: labels count from 0 to {classes - 1} without a gap"
        )
    if classes < _LEAST_CLASSES:
        raise DataError(f"the shards hold {classes} class: at least {_LEAST_CLASSES} are needed")
    return classes
