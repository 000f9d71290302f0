"""Where the samples of a WebDataset shard lie: one tar archive, read header by header, remembered in a cache.

Used by the `webdataset` kind, in a plan and in a job, so that both count the same. Standard library only; it reads
labels and no image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from gpuplan_job.atomic import write_atomic
from gpuplan_job.data import DataError
from gpuplan_job.data._image_listing import EXTENSIONS, left_behind

_VERSION = 1
_LABEL = "cls"
"""Extension of the member that holds a sample's class, as WebDataset's own readers and writers have it."""
_NUMBER = re.compile(rb"\s*(\d{1,9})\s*", re.ASCII)
_MOST_LABEL_BYTES = 64
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
"""First bytes of what looks like a tar by its name and can only be read from its start."""


class Sample(NamedTuple):
    """One image in a shard, named by its member, and its class."""

    member: str
    offset: int
    """Of the image's first byte in the archive."""
    size: int
    """Stored bytes of the image."""
    label: int


def index(shard: Path) -> list[Sample]:
    """Return the samples of a shard, in the order of their images.

    What was found is kept in the user's cache and serves as long as the archive has the same size and time of change.

    Raises:
        DataError: the archive is damaged, cut off or compressed; an image has no label, a label no image, or a sample
            has two of one; the message names shard and member.
        OSError: it cannot be read.
    """
    status = shard.stat()
    stamp = [_VERSION, str(shard.absolute()), status.st_size, status.st_mtime_ns]
    kept = _place(shard)
    if kept is not None and (found := _remembered(kept, stamp)) is not None:
        return found
    found = _read(shard)
    if kept is not None:
        with suppress(OSError):  # a full or read-only disk costs time alone
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, json.dumps([stamp, found]))
    return found


def _place(shard: Path) -> Path | None:
    """Return the file of the cache that is a shard's; None where the user has no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(root) if root else Path.home() / ".cache"
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(shard.absolute())).hexdigest()
    return folder / "gpuplan" / "shards" / f"{name}.json"


def _remembered(kept: Path, stamp: list[object]) -> list[Sample] | None:
    """Return what an earlier look found, None where it is of another archive or cannot be read."""
    try:
        found_stamp, rows = json.loads(kept.read_bytes())
        return [Sample(*row) for row in rows] if found_stamp == stamp else None
    except (OSError, ValueError, TypeError):
        return None


def _read(shard: Path) -> list[Sample]:
    with shard.open("rb") as file:
        start = file.read(2)
        if start in _COMPRESSED:
            raise DataError(
                f"{shard} is compressed ({_COMPRESSED[start]}): no sample in it can be read by itself; unpack the shard"
            )
        file.seek(0)
        parts = _Parts(shard)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    parts.add(member, file)
                    archive.members.clear()  # type: ignore[attr-defined] # typeshed lacks it; it would keep every header
                _refuse_early_end(shard, file, archive.offset)
        except (tarfile.TarError, EOFError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"the shard {shard} is damaged or cut off: {error}; {_AGAIN}") from error
    return parts.samples()


_AGAIN = "write or copy it again"


def _refuse_early_end(shard: Path, file: BinaryIO, offset: int) -> None:
    """Refuse an archive that does not end with a block of zeros: tarfile takes a damaged header for the end, too."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(
            f"the shard {shard} is cut off at byte {offset + len(block)}: the end mark of a tar is missing; {_AGAIN}"
        )
    if any(block):
        raise DataError(f"the shard {shard} is damaged at byte {offset}: no header of a tar is there; {_AGAIN}")


class _Parts:
    """The images and labels of one shard, gathered by sample."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        self.images: dict[str, tuple[str, int, int]] = {}
        self.labels: dict[str, tuple[str, int]] = {}

    def add(self, member: tarfile.TarInfo, file: BinaryIO) -> None:
        """Take note of a member: a sample's image or label. Others, such as metadata, are nobody's business here."""
        path = PurePosixPath(member.name)
        if not path.name or any(left_behind(part) for part in path.parts):
            return
        # WebDataset's rule: the key ends at the first dot of the file's name, and what follows says which part it is.
        stem, _, extension = path.name.partition(".")
        key, extension = str(path.with_name(stem)), extension.lower()
        is_image = f".{extension.rpartition('.')[2]}" in EXTENSIONS
        if not is_image and extension != _LABEL:
            return
        if not member.isreg() or member.issparse():
            raise DataError(f"{member.name} in the shard {self.shard} is no plain file: store the file itself")
        if is_image:
            if key in self.images:
                raise self._twice(key, "image", self.images[key][0], member.name)
            self.images[key] = (member.name, member.offset_data, member.size)
        else:
            if key in self.labels:
                raise self._twice(key, "label", self.labels[key][0], member.name)
            self.labels[key] = (member.name, self._label(member, file))

    def samples(self) -> list[Sample]:
        """Return the samples, once each image has its label and each label its image."""
        for key, (name, *_) in self.images.items():
            if key not in self.labels:
                raise DataError(
                    f"{name} in the shard {self.shard} has no label: {PurePosixPath(key).name}.{_LABEL} is missing"
                )
        for key, (name, _) in self.labels.items():
            if key not in self.images:
                raise DataError(f"{name} in the shard {self.shard} has no image beside it ({', '.join(EXTENSIONS)})")
        return [Sample(*image, self.labels[key][1]) for key, image in self.images.items()]

    def _label(self, member: tarfile.TarInfo, file: BinaryIO) -> int:
        file.seek(member.offset_data)
        text = file.read(min(member.size, _MOST_LABEL_BYTES))
        found = _NUMBER.fullmatch(text)
        if found is None or member.size > _MOST_LABEL_BYTES:
            raise DataError(
                f"{member.name} in the shard {self.shard} holds {text[:20]!r}: a label is the number of a class, from 0"
            )
        return int(found[1])

    def _twice(self, key: str, what: str, first: str, second: str) -> DataError:
        names = first if first == second else f"{first} and {second}"
        return DataError(f"the sample {key} has two {what}s in the shard {self.shard}: {names}")
