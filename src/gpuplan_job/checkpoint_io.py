"""How a training's state becomes a file and comes back: written straight to its place, read without unpickling code.

Called by `checkpoints` and `train`. A checkpoint is read once, by rank 0, and handed to the others, so that all go on
from the same one whichever machine they run on.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from torch import distributed

from gpuplan_job.causes import MORE_DISK
from gpuplan_job.contract import EpochMetrics
from gpuplan_job.failures import JobError
from gpuplan_job.loop_state import Place

EPOCHS = "gpuplan_epochs"
"""Key in a checkpoint: the figures of its epochs."""
SO_FAR = "gpuplan_epoch_so_far"
"""Key in a checkpoint: the figures of the epoch that is under way."""
PLACE = "gpuplan_place"
"""Key in a checkpoint: where in the training it was made."""
RESUME = "resume"
"""What Lightning is told to load; `CheckpointFiles` knows which checkpoint that is."""


class CheckpointFiles(CheckpointIO):
    """Lightning's way to checkpoints, for one training."""

    def __init__(self) -> None:
        self.resumed: bytes | None = None
        """Contents of the checkpoint to go on from, None at a fresh start."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint, with no copy of it in memory or in a folder for temporaries.

        Raises:
            JobError: the disk does not take it.
        """
        del storage_options
        try:
            torch.save(checkpoint, path)
        except RuntimeError as error:  # torch's archive writer fails so, with a word about positions
            Path(path).unlink(missing_ok=True)
            free = shutil.disk_usage(Path(path).parent).free
            problem = f"a checkpoint cannot be written: {free / 2**20:.0f} MiB are free beside it"
            raise JobError("disk", problem, MORE_DISK) from error

    def load_checkpoint(
        self,
        path: object,
        map_location: object = None,
        weights_only: bool | None = None,  # noqa: FBT001 - Lightning's signature
    ) -> dict[str, Any]:
        """Return the checkpoint to go on from, on the CPU; Lightning moves what belongs on a GPU."""
        del path, map_location, weights_only
        content, self.resumed = self.resumed, None
        if content is None:
            raise FileNotFoundError("there is no checkpoint to go on from")
        return _load(content)

    def remove_checkpoint(self, path: object) -> None:
        """Do nothing: the keeper drops what it has replaced."""


def place_of(checkpoint: dict[str, Any]) -> Place:
    """Return where in the training a loaded checkpoint was made."""
    return Place(**checkpoint[PLACE])


def problem(source: bytes | Path, place: Place) -> str | None:
    """Return why a checkpoint, its contents or its file, cannot be gone on from at a place, None if it can."""
    try:
        checkpoint = _load(source)
        epochs = [EpochMetrics(**metrics) for metrics in checkpoint[EPOCHS]]
        found = place_of(checkpoint)
    except Exception as error:  # noqa: BLE001 - bytes made to do harm can fail in any way, and cost no more than a save
        return f"it cannot be loaded: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if found != place or len(epochs) != place.epoch:
        return f"it holds {len(epochs)} epochs and {found.step} steps, not the {place.epoch} and {place.step} it should"
    return None


def shared(content: bytes | None, group: distributed.ProcessGroup | None) -> bytes | None:
    """Return rank 0's `content` on every rank; a collective, over gloo, so that no GPU memory is touched.

    `group` is all ranks, None where there is one.
    """
    if group is None:
        return content
    size = torch.tensor([-1 if content is None else len(content)])
    distributed.broadcast(size, src=0, group=group)
    if size.item() >= 0:
        sent = torch.empty(int(size.item()), dtype=torch.uint8)
        if content is not None:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(sent, src=0, group=group)
        content = sent.numpy().tobytes() if content is None else content
    return content


def _load(source: bytes | Path) -> dict[str, Any]:
    # weights_only: tensors and plain values alone, whatever else the file names is refused before it is called. A file
    # is mapped: to look at it takes no memory.
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    mapped = not isinstance(source, bytes)
    loaded: dict[str, Any] = torch.load(stream, map_location="cpu", weights_only=True, mmap=mapped)
    return loaded
