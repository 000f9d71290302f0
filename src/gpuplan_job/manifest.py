"""The manifest beside a checkpoint, written after it: whose it is, of which epoch, and its digest.

Called by `checkpoints`. A checkpoint without a manifest that verifies is as good as none. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from gpuplan_job.atomic import write_atomic
from gpuplan_job.document import ContractError, Document, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpuplan_job.contract import JobInput

SUFFIX = ".json"
_CHECKPOINTS = "*.ckpt"


@dataclass(frozen=True)
class Owner:
    """The job that a checkpoint belongs to: a run's step, whatever the attempt."""

    run_id: str
    step: str
    job_sha256: str
    """Of the job's input as it was sent, without its attempt: data, batch, seed and schedule are what a checkpoint
    continues. A retry after memory ran out keeps the global batch, and goes on."""

    @classmethod
    def of(cls, job_input: JobInput) -> Owner:
        """Return the owner of a job's checkpoints."""
        train = replace(job_input.train, oom_retry=None) if job_input.train else None
        sent = replace(job_input, attempt=0, train=train, expected=None)
        return cls(job_input.run_id, job_input.step, sha256_hex(sent.to_json()))


@dataclass(frozen=True)
class Manifest(Document):
    """What a whole checkpoint is."""

    SCHEMA: ClassVar[str] = "gpuplan.checkpoint/1"

    file: str
    sha256: str
    bytes: int
    epoch: int
    """Epochs that are done, counted from 1."""
    owner: Owner


def beside(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's manifest."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def adopt(temporary: Path, path: Path, epoch: int, sha256: str, owner: Owner) -> Manifest:
    """Give a whole file beside `path` that name, then its manifest, and return the manifest.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary.replace(path)
    manifest = Manifest(path.name, sha256, path.stat().st_size, epoch, owner)
    write_atomic(beside(path), manifest.to_json())
    return manifest


def verified(folder: Path, owner: Owner, refused: Callable[[str], None]) -> Iterator[tuple[Manifest, bytes]]:
    """Yield the owner's checkpoints in a folder that are what their manifests say, newest first, with their contents.

    `refused` is told of each other one, and why, when its turn comes.
    """
    found = []
    for path in sorted(folder.glob(_CHECKPOINTS + SUFFIX)):
        try:
            found.append(_read(path, owner))
        except (ContractError, OSError) as error:
            refused(f"{path.name}: {error}")
    for manifest in sorted(found, key=lambda manifest: manifest.epoch, reverse=True):
        try:
            yield manifest, _content(folder / manifest.file, manifest)
        except (ContractError, OSError) as error:
            refused(f"{manifest.file}: {error}")


def foreign(checkpoint: Path, owner: Owner) -> bool:
    """Tell whether a checkpoint's manifest names another job."""
    try:
        return Manifest.from_json(beside(checkpoint).read_bytes()).owner != owner
    except (ContractError, OSError):
        return False


def _read(path: Path, owner: Owner) -> Manifest:
    manifest = Manifest.from_json(path.read_bytes())
    if manifest.file + SUFFIX != path.name:
        raise ContractError(f"it describes {manifest.file!r}")
    if manifest.owner != owner:
        raise ContractError(f"it belongs to run {manifest.owner.run_id}, step {manifest.owner.step}, or other settings")
    return manifest


def _content(path: Path, manifest: Manifest) -> bytes:
    content = path.read_bytes()
    if len(content) != manifest.bytes:
        raise ContractError(f"it has {len(content)} bytes of {manifest.bytes}")
    if sha256_hex(content) != manifest.sha256:
        raise ContractError("its sha256 is not the one it was written with")
    return content
