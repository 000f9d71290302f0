"""The checkpoints of a job on disk: the newest, the one before it within an epoch, the best; a kill tears none.

Called by `checkpoints`, in rank 0 alone. No file is ever written in place: each save writes a new one, its manifest
last, and only then drops what it has replaced. The folder may be a mount of its own, so nothing is moved in or out of
it. It must not know when to save.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gpuplan_job import manifest
from gpuplan_job.atomic import link_or_copy, sync_file
from gpuplan_job.contract import CHECKPOINTS_FOLDER
from gpuplan_job.manifest import Manifest, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gpuplan_job.contract import BatchSpec, EpochMetrics
    from gpuplan_job.loop_state import Place

BEST = f"{CHECKPOINTS_FOLDER}/best.ckpt"
LAST = f"{CHECKPOINTS_FOLDER}/last.ckpt"
_MIDWAY = ("midway-1.ckpt", "midway-2.ckpt")
"""Two names in turn: what mirrors the folder and deletes nothing, as SageMaker does, keeps two and not hundreds."""
_OURS = ("last*.ckpt", "best*.ckpt", "midway-*.ckpt", ".*.tmp")


class CheckpointFolder:
    """What is known to be whole; best is the epoch of highest score, of equals the earlier.

    Only an epoch whose checkpoint is there can be best: where a resumed training finds its best one damaged, the best
    of the others takes its place.
    """

    def __init__(self, job_folder: Path, owner: Owner) -> None:
        self.path = job_folder / CHECKPOINTS_FOLDER
        self.owner = owner
        self._epochs: dict[int, Manifest] = {}
        """Checkpoints of whole epochs, by epoch."""
        self._newest: list[Manifest] = []
        """Those to go on from, the newest first."""

    def verified(self, refused: Callable[[str], None]) -> Iterator[tuple[Manifest, bytes]]:
        """Yield the job's checkpoints that are what their manifests say, newest first; `refused` is told why not."""
        return manifest.verified(self.path, self.owner, refused)

    def know(self, found: Manifest) -> None:
        """Count on a checkpoint that verified; from the newest on."""
        self._newest.append(found)
        if not found.step:
            self._epochs[found.epoch] = found

    def temporary(self, place: Place) -> Path:
        """Return where to write the checkpoint of a place in the training before it is kept."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / f".{self._name(place)}.tmp"

    def keep(self, temporary: Path, place: Place, batch: BatchSpec, epochs: Sequence[EpochMetrics]) -> None:
        """Give a file that was written its name and its manifest, and drop what it replaces.

        Raises:
            OSError: the folder cannot be written.
        """
        sync_file(temporary)
        with temporary.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        path = self.path / self._name(place)
        new = Manifest(path.name, sha256, 0, place.epoch, place.step, batch, self.owner)
        new = manifest.adopt(temporary, path, new)
        # Should the newest be lost, the one before it is not an epoch away.
        self._newest = [new, *self._newest[:1]] if place.step else [new]
        if not place.step:
            self._epochs[place.epoch] = new
        best = []
        if self._epochs:
            epoch = self.best_epoch(epochs)
            best = [self._named(epoch, f"best-{epoch:04d}.ckpt")]
        self._drop_all_but(*(self.path / found.file for found in self._newest), *best)

    def best_epoch(self, epochs: Sequence[EpochMetrics]) -> int:
        """Return the best of the epochs so far, counted from 1."""
        candidates = [metrics for metrics in epochs if metrics.epoch in self._epochs] or epochs
        return max(candidates, key=lambda metrics: (metrics.score, -metrics.epoch)).epoch

    def finish(self, epochs: Sequence[EpochMetrics]) -> None:
        """Give the two that stay their final names, once, after the last epoch."""
        best = self._named(self.best_epoch(epochs), BEST.removeprefix(f"{CHECKPOINTS_FOLDER}/"))
        last = self._named(epochs[-1].epoch, LAST.removeprefix(f"{CHECKPOINTS_FOLDER}/"))
        self._drop_all_but(last, best)

    def _name(self, place: Place) -> str:
        if not place.step:
            return f"last-{place.epoch:04d}.ckpt"
        first = not self._newest or self._newest[0].file != _MIDWAY[0]
        return _MIDWAY[0] if first else _MIDWAY[1]

    def _named(self, epoch: int, name: str) -> Path:
        """Return the checkpoint of an epoch under a name, giving it that name if it has another."""
        path, found = self.path / name, self._epochs[epoch]
        if found.file != name:
            second = self.path / f".{name}.tmp"
            second.unlink(missing_ok=True)
            link_or_copy(self.path / found.file, second)
            self._epochs[epoch] = manifest.adopt(second, path, found)
        return path

    def _drop_all_but(self, *kept: Path) -> None:
        names = {path.name for path in kept}
        self._epochs = {epoch: found for epoch, found in self._epochs.items() if found.file in names}
        for path in [path for pattern in _OURS for path in self.path.glob(pattern)]:
            if path not in kept and not manifest.foreign(path, self.owner):
                manifest.beside(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
