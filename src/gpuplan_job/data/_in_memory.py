"""A data set whose images lie in memory as one tensor. Used by the data kinds; only a job imports it."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset


class InMemory(Dataset[tuple[Tensor, int]]):
    """Pairs of an image [C, H, W] and its class, from images [N, C, H, W] and labels [N]."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels: list[int] = labels.tolist()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)
