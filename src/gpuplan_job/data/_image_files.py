"""Reads image files and prepares them the way ImageNet trainings do.

Used by the `imagefolder` kind; only a job imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from gpuplan_job.data import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB channels, as torchvision's own weights use them."""
_CROP_SIDE = 64
"""Pixels from which on a random crop of any scale still shows its subject."""
_RESIZE_TO_CROP = 256 / 224


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Pairs of a prepared image [3, side, side] and its class."""

    def __init__(self, listing: Sequence[tuple[str, int]], transform: Callable[[Image.Image], Tensor]) -> None:
        self.listing = listing
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.listing[index]
        try:
            with Image.open(path) as image:
                pixels = image.convert("RGB")
        # Pillow's decoders raise all of these on damaged files.
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise DataError(f"cannot read the image {path}: {error}; replace or remove it") from error
        return self.transform(pixels), label

    def __len__(self) -> int:
        return len(self.listing)


def training_transform(side: int) -> Callable[[Image.Image], Tensor]:
    """Return the augmentation for a side in pixels: random crop and flip; below 64 px a shift by an eighth instead."""
    if side >= _CROP_SIDE:
        crop = [transforms.RandomResizedCrop(side)]
    else:
        crop = [transforms.Resize((side, side)), transforms.RandomCrop(side, padding=max(1, side // 8))]
    return _compose([*crop, transforms.RandomHorizontalFlip()])


def validation_transform(side: int) -> Callable[[Image.Image], Tensor]:
    """Return the fixed preparation: shorter edge to 256/224 of the side, then the centre."""
    return _compose([transforms.Resize(round(side * _RESIZE_TO_CROP)), transforms.CenterCrop(side)])


def _compose(steps: list[Callable[[Image.Image], Image.Image]]) -> Callable[[Image.Image], Tensor]:
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(
        [*steps, transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    )
    return composed
