"""The code of a job on S3: payload and locked wheels in a folder named by their digest, uploaded once.

Called by the backends that run jobs on AWS. The digest needs no download: a plan made offline names the very folder.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from gpuplan.aws import job_wheels, layout
from gpuplan.core import payload

if TYPE_CHECKING:
    from pathlib import Path

PAYLOAD_FILE = "payload.pyz"
_WHEELS = "wheels/"
_REQUIREMENTS = f"{_WHEELS}requirements.txt"


class Objects(Protocol):
    """What is needed of a bucket."""

    def head(self, key: str) -> bool:
        """Tell whether there is an object."""
        ...

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call wrote it."""
        ...


def digest(*, wheels: bool, lock: Path = job_wheels.REQUIREMENTS) -> str:
    """Return the hex sha256 of a job's code: the payload, and if asked for the wheels that `lock` names."""
    return _digest(_shipped(lock if wheels else None))


def upload(*, wheels: Path | None, bucket: Objects, prefix: str, lock: Path = job_wheels.REQUIREMENTS) -> None:
    """Put a job's code where its digest says, unless it is there.

    `wheels` is the folder that wheels are downloaded into; None sends none.
    The payload comes last: it is what the job starts, so a folder that holds it holds everything.

    Raises:
        UsageError: a wheel cannot be had.
    """
    files = _shipped(None if wheels is None else lock)
    folder = layout.code_folder(prefix, _digest(files))
    if bucket.head(f"{folder}{PAYLOAD_FILE}"):
        return
    if wheels is not None:
        job_wheels.fetch(wheels, lock)
        files |= {f"{_WHEELS}{wheel.file}": (wheels / wheel.file).read_bytes() for wheel in job_wheels.locked(lock)}
    for name in sorted(files, key=lambda name: name == PAYLOAD_FILE):
        bucket.put_once(f"{folder}{name}", files[name])


def _shipped(lock: Path | None) -> dict[str, bytes]:
    """Return what is known without a download; the requirements hold the digest of each wheel."""
    files = {PAYLOAD_FILE: payload.archive()}
    if lock is not None:
        files[_REQUIREMENTS] = lock.read_bytes()
    return files


def _digest(files: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for name, content in files.items():
        total.update(f"{name}\n{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()
