"""The forked ranks' data and network: small, with all that makes a resume hard, and noting when each step begins."""

from __future__ import annotations

import mmap
import struct
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS = 8192
"""Times of micro-batches that a rank can note."""


class Shaken(Dataset[tuple[Tensor, int]]):
    """Two clouds of points, shaken anew each time they are drawn to train on."""

    def __init__(self, samples: int, noise: float) -> None:
        self.samples = samples
        self.noise = noise

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        centre = torch.randn(8, generator=torch.Generator().manual_seed(index)) + 1.0 * (index % 2)
        return centre + self.noise * torch.randn(8), index % 2

    def __len__(self) -> int:
        return self.samples


class Noting(nn.Module):
    """A small network that notes when each of its training micro-batches begins."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2))
        self.note = note

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits [B, 2]."""
        if self.training:
            self.note()
        logits: Tensor = self.layers(points)
        return logits


class Notes:
    """Times of micro-batches in memory that outlives the ranks that wrote them."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * SLOTS * 8)

    def clear(self) -> None:
        """Forget all."""
        self._memory[:] = bytes(len(self._memory))

    def of(self, rank: int) -> Callable[[], None]:
        """Return what notes that a rank's next micro-batch begins."""
        count = 0

        def note() -> None:
            nonlocal count
            struct.pack_into("d", self._memory, (rank * SLOTS + count) * 8, time.monotonic())
            count += 1

        return note

    def times(self) -> list[float]:
        """Return when each micro-batch began on the rank that came farthest."""
        values = struct.unpack(f"{2 * SLOTS}d", self._memory)
        ranks = [[time for time in values[rank * SLOTS : (rank + 1) * SLOTS] if time] for rank in (0, 1)]
        return max(ranks, key=len)
