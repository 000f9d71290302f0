"""Keeps the newest and the best checkpoint of a training, and finds the one to go on from; a kill tears neither.

Called by `train` as a Lightning callback. No file is ever written in place: each epoch writes new ones, their manifests
last, and only then drops the ones before. The folder may be a mount of its own, so nothing is moved in or out of it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from gpuplan_job import checkpoint_io, manifest
from gpuplan_job.atomic import link_or_copy, sync_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gpuplan_job.contract import EpochMetrics
    from gpuplan_job.figures import EpochFigures
    from gpuplan_job.manifest import Manifest, Owner

FOLDER = "checkpoints"
BEST = f"{FOLDER}/best.ckpt"
LAST = f"{FOLDER}/last.ckpt"
_OURS = ("last*.ckpt", "best*.ckpt", ".*.tmp")


class CheckpointKeeper(pl.Callback):
    """Saves after each epoch's validation; best is the epoch of highest score, of equals the earlier.

    Only an epoch whose checkpoint is there can be best: where a resumed training finds its best one damaged, the best
    of the others takes its place.
    """

    def __init__(self, folder: Path, owner: Owner, figures: EpochFigures) -> None:
        self.folder = folder / FOLDER
        self.owner = owner
        self.figures = figures
        self._whole: dict[int, Manifest] = {}
        """Checkpoints on disk that are what their manifests say, by epoch; rank 0 knows them."""

    def find(self, say: Callable[[str], None]) -> bytes | None:
        """Return the contents of the newest checkpoint of this job that verifies and loads, None if there is none.

        `say` is told which, and of each other one why not. Rank 0 calls it once, before the training.
        """
        newest: bytes | None = None
        for found, content in manifest.verified(self.folder, self.owner, lambda why: say(f"not used: {why}")):
            if newest is None:
                problem = checkpoint_io.problem(content, found.epoch)
                if problem is not None:
                    say(f"not used: {found.file}: {problem}")
                    continue
                say(f"going on after epoch {found.epoch}, from {found.file}")
                newest = content
            self._whole[found.epoch] = found
        return newest

    def best_epoch(self, epochs: Sequence[EpochMetrics]) -> int:
        """Return the best of the epochs so far, counted from 1."""
        candidates = [metrics for metrics in epochs if metrics.epoch in self._whole] or epochs
        return max(candidates, key=lambda metrics: (metrics.score, -metrics.epoch)).epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch. Every rank takes part, rank 0 writes."""
        del pl_module
        epoch = self.figures.epochs[-1].epoch
        temporary = self.folder / f".last-{epoch:04d}.ckpt.tmp"
        self.folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(temporary)
        if not trainer.is_global_zero:
            return
        sync_file(temporary)
        with temporary.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        last = self.folder / f"last-{epoch:04d}.ckpt"
        self._whole[epoch] = manifest.adopt(temporary, last, epoch, sha256, self.owner)
        best_epoch = self.best_epoch(self.figures.epochs)
        best = self._named(best_epoch, f"best-{best_epoch:04d}.ckpt")
        self._drop_all_but(last, best)

    def finish(self, epochs: Sequence[EpochMetrics]) -> None:
        """Give the two kept files their final names; rank 0 calls it once, after the last epoch."""
        best = self._named(self.best_epoch(epochs), BEST.removeprefix(f"{FOLDER}/"))
        last = self._named(epochs[-1].epoch, LAST.removeprefix(f"{FOLDER}/"))
        self._drop_all_but(last, best)

    def _named(self, epoch: int, name: str) -> Path:
        """Return the checkpoint of an epoch under a name, giving it that name if it has another."""
        path, found = self.folder / name, self._whole[epoch]
        if found.file != name:
            second = self.folder / f".{name}.tmp"
            second.unlink(missing_ok=True)
            link_or_copy(self.folder / found.file, second)
            self._whole[epoch] = manifest.adopt(second, path, epoch, found.sha256, self.owner)
        return path

    def _drop_all_but(self, *kept: Path) -> None:
        names = {path.name for path in kept}
        self._whole = {epoch: found for epoch, found in self._whole.items() if found.file in names}
        for path in [path for pattern in _OURS for path in self.folder.glob(pattern)]:
            if path not in kept and not manifest.foreign(path, self.owner):
                manifest.beside(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
