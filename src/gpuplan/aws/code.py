"""The code of a job on S3: payload, locked wheels and the user's own code in a folder named by their digest.

Called by the backends that run jobs on AWS, which upload it once. The digest needs no download and no file: a plan made
offline names the very folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from gpuplan.aws import job_wheels, layout
from gpuplan.core import payload
from gpuplan_job.contract import CODE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpuplan_job.contract import JobInput

_OF_EVERY_IMAGE = {"torch", "torchvision"}
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


@dataclass(frozen=True)
class UsersCode:
    """The archive of the user's own code: its digest, and how it is had once it is needed."""

    sha256: str
    read: Callable[[], bytes]


def digest_for(job: JobInput, *, wheels: bool) -> str:
    """Return the digest of what a job is sent; without `wheels` none are, whatever it needs."""
    return digest(wheels=wheels and _needs_wheels(job), users=job.code.sha256 if job.code else None)


def upload_for(
    job: JobInput, *, wheels: Path | None, taken: Callable[[str], bytes], bucket: Objects, prefix: str
) -> None:
    """Put what a job is sent where `digest_for` says; `taken` gives the archive of a digest.

    Raises:
        UsageError: as `upload`.
    """
    users = UsersCode(job.code.sha256, partial(taken, job.code.sha256)) if job.code else None
    upload(wheels=wheels if _needs_wheels(job) else None, bucket=bucket, prefix=prefix, users=users)


def digest(*, wheels: bool, lock: Path = job_wheels.REQUIREMENTS, users: str | None = None) -> str:
    """Return the hex sha256 of a job's code: the payload, and if asked for the wheels that `lock` names.

    `users` is the sha256 of the archive of the user's own code, None where there is none.
    """
    return _digest(_shipped(lock if wheels else None), users)


def upload(
    *,
    wheels: Path | None,
    bucket: Objects,
    prefix: str,
    lock: Path = job_wheels.REQUIREMENTS,
    users: UsersCode | None = None,
) -> None:
    """Put a job's code where its digest says, unless it is there.

    `wheels` is the folder that wheels are downloaded into; None sends none.
    The payload comes last: it is what the job starts, so a folder that holds it holds everything.

    Raises:
        UsageError: a wheel cannot be had, or the user's code.
    """
    files = _shipped(None if wheels is None else lock)
    folder = layout.code_folder(prefix, _digest(files, users.sha256 if users else None))
    if bucket.head(f"{folder}{PAYLOAD_FILE}"):
        return
    if wheels is not None:
        job_wheels.fetch(wheels, lock)
        files |= {f"{_WHEELS}{wheel.file}": (wheels / wheel.file).read_bytes() for wheel in job_wheels.locked(lock)}
    if users is not None:
        files[CODE_FILE] = users.read()
    for name in sorted(files, key=lambda name: name == PAYLOAD_FILE):
        bucket.put_once(f"{folder}{name}", files[name])


def _needs_wheels(job: JobInput) -> bool:
    return not _OF_EVERY_IMAGE.issuperset(job.packages)


def _shipped(lock: Path | None) -> dict[str, bytes]:
    """Return what is known without a download; the requirements hold the digest of each wheel."""
    files = {PAYLOAD_FILE: payload.archive()}
    if lock is not None:
        files[_REQUIREMENTS] = lock.read_bytes()
    return files


def _digest(files: dict[str, bytes], users: str | None) -> str:
    total = hashlib.sha256()
    for name, content in files.items():
        total.update(f"{name}\n{hashlib.sha256(content).hexdigest()}\n".encode())
    if users is not None:
        total.update(f"{CODE_FILE}\n{users}\n".encode())
    return total.hexdigest()
