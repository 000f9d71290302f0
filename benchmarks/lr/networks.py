"""The networks of `lr_regret.py`: one plain, one with BatchNorm, one transformer; small, for a CPU.

A network takes image batches [B, C, H, W] and returns logits [B, 10].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

_CLASSES = 10


def mlp(channels: int, side: int) -> nn.Module:
    """Return two hidden layers of 128."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * side * side, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, _CLASSES),
    )


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images) + self.skip(images))


def resnet(channels: int, _side: int) -> nn.Module:
    """Return a residual network of three blocks with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, 1, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        _Residual(12, 12, 1),
        _Residual(12, 24, 2),
        _Residual(24, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, _CLASSES),
    )


class _Transformer(nn.Module):
    """Two encoder layers over the rows of an image, with normalisation before each part."""

    def __init__(self, channels: int, side: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(channels * side, width)
        self.position = nn.Parameter(torch.randn(1, side, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(side * width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 1, 3).flatten(2)
        logits: Tensor = self.head(self.encoder(self.embed(rows) + self.position).flatten(1))
        return logits


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"mlp": mlp, "resnet": resnet, "transformer": _Transformer}
