"""The manifest beside a checkpoint, written after it: whose it is, where in the training, and its digest.

Called by `checkpoints`. A checkpoint without a manifest that verifies is as good as none. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import BatchSpec
from gpuplan_job.document import ContractError, Document, parse_json, sha256_hex
from gpuplan_job.loop_state import Place

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
    """Of what a checkpoint continues in the job's input: workload with its seed, learning rate and schedule."""

    @classmethod
    def of(cls, job_input: JobInput) -> Owner:
        """Return the owner of a job's checkpoints.

        Attempt, plan, data-loading processes and the times of saving change nothing that is trained. How the global
        batch is made up may change, too: `regrouping` judges that.
        """
        train = job_input.train
        same = replace(
            job_input,
            attempt=0,
            plan_id="",
            workload=replace(job_input.workload, workers=0),
            batch=BatchSpec(1, 1, 1),
            train=train and replace(train, checkpoint_seconds=None, mean_seconds_between_failures=None),
        )
        return cls(job_input.run_id, job_input.step, sha256_hex(same.to_json()))


@dataclass(frozen=True)
class Manifest(Document):
    """What a whole checkpoint is."""

    SCHEMA: ClassVar[str] = "gpuplan.checkpoint/2"

    file: str
    sha256: str
    bytes: int
    epoch: int
    """Epochs that are done."""
    step: int
    """Optimizer steps that are done in the epoch after them."""
    batch: BatchSpec
    """What it was trained at."""
    owner: Owner

    @property
    def place(self) -> Place:
        """Where in the training it was made."""
        return Place(self.epoch, self.step)


def beside(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's manifest."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def adopt(temporary: Path, path: Path, manifest: Manifest) -> Manifest:
    """Give a whole file beside `path` that name, then its manifest, and return the manifest as it is there.

    In between the name has none: what an older one says of the file is no longer true.

    Raises:
        OSError: the folder cannot be written.
    """
    beside(path).unlink(missing_ok=True)
    temporary.replace(path)
    found = replace(manifest, file=path.name, bytes=path.stat().st_size)
    write_atomic(beside(path), found.to_json())
    return found


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
    for manifest in sorted(found, key=lambda manifest: (manifest.epoch, manifest.step), reverse=True):
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
    text = path.read_bytes()
    raw = parse_json(text)
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != Manifest.SCHEMA and str(schema).startswith(Manifest.SCHEMA.partition("/")[0]):
        raise ContractError(
            f"another version of gpuplan wrote it: its format is {schema}, this one's {Manifest.SCHEMA}"
        )
    manifest = Manifest.from_json(text)
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
