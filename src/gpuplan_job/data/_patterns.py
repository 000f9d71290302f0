"""Made-up images: a coarse pattern that belongs to the class, under noise that belongs to the sample.

Used by the `fake` kind; only a job imports it. It must not keep images in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

_GRID = 4
"""Side of the coarse pattern: few numbers a class, and it survives pooling."""


class Patterns(Dataset[tuple[Tensor, int]]):
    """Sample k is the image [C, H, W] of number `numbers[k]`, whose class is that number modulo `classes`."""

    def __init__(self, numbers: Sequence[int], size: tuple[int, int, int], classes: int) -> None:
        self.numbers = numbers
        self.size = size
        self.classes = classes

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = self.numbers[index]
        label = number % self.classes
        channels, height, width = self.size
        # Negative seeds belong to classes, the others to samples.
        coarse = torch.randn(1, channels, _GRID, _GRID, generator=torch.Generator().manual_seed(-1 - label))
        pattern = functional.interpolate(coarse, size=(height, width), mode="nearest")[0]
        noise = torch.randn(self.size, generator=torch.Generator().manual_seed(number))
        return (pattern + noise) * 0.5**0.5, label

    def __len__(self) -> int:
        return len(self.numbers)
