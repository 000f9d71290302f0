"""What became of a killed training, and whether two trainings ended alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What one kill led to."""

    victim: str
    resumed: bool
    same: bool
    steps_lost: int
    seconds_lost: float
    steps_done: int


def equal(folder: Path, expected: Path) -> bool:
    """Tell whether two trainings ended with the same last and best weights and averages, and the same losses."""
    pairs = [
        [torch.load(path / "checkpoints" / name, weights_only=True) for path in (folder, expected)]
        for name in ("last.ckpt", "best.ckpt")
    ]
    for ours, theirs in pairs:
        for key in ("state_dict", "ema_state_dict"):
            mine, other = ours.get(key, {}), theirs.get(key, {})
            if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in mine):
                return False
        losses = [[epoch["train_loss"] for epoch in found["gpuplan_epochs"]] for found in (ours, theirs)]
        if losses[0] != losses[1]:
            return False
    return True
