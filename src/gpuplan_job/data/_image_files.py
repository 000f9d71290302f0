"""Reads image files and prepares them the way ImageNet trainings do.

Used by the kinds whose samples are image files; only a job imports it.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from gpuplan_job.data import DataError
from gpuplan_job.data._image_listing import DEFAULT_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpuplan_job.data._image_listing import Folder

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB channels, as torchvision's own weights use them."""
_CROP_SIDE = 64
"""Pixels from which on a random crop of any scale still shows its subject."""
_RESIZE_TO_CROP = 256 / 224
_16_TO_8_BITS = 1 / 257
"""65535 to 255. Pillow's own conversion clips instead, which turns nearly every 16-bit image white."""
_UNBOUNDED_MODES = ("I", "F")
"""32-bit integers and floats: the file does not say which value is white."""


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Pairs of a prepared image [3, side, side] and its class, each image a file."""

    def __init__(self, listing: Sequence[tuple[str, int]], transform: Callable[[Image.Image], Tensor]) -> None:
        self.listing = listing
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.listing[index]
        return self.transform(decoded(path, path)), label

    def __len__(self) -> int:
        return len(self.listing)

    @property
    def labels(self) -> list[int]:
        """The class of each sample, without reading it."""
        return [label for _, label in self.listing]


def image_files(folder: Folder, image_size: int | None) -> tuple[ImageFiles, ImageFiles]:
    """Return (training, validation) data sets of a listing, the training images augmented, the others centred."""
    side = image_size or DEFAULT_SIDE
    return ImageFiles(folder.train, training_transform(side)), ImageFiles(folder.val, validation_transform(side))


def decoded(source: str | IO[bytes], name: object) -> Image.Image:
    """Return an image's pixels as RGB, 8 bits a channel; `name`, as text, is what its user knows it by.

    Raises:
        DataError: it is no image, damaged, or of a kind whose white is not known.
    """
    try:
        with Image.open(source) as image:
            mode = image.mode
            pixels = None if mode in _UNBOUNDED_MODES else _rgb(image)
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image {name}: {_said(error)}; replace or remove it") from error
    if pixels is None:
        raise DataError(f"the image {name} has pixels of Pillow's mode {mode}: convert it to 8 bits per channel")
    return pixels


def _said(error: Exception) -> str:
    # Of bytes in memory Pillow tells the object's address, of a file its name, which stands there already.
    return "no image of a kind that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)


def _rgb(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I;16"):
        return image.convert("RGB")
    # The half makes of Pillow's truncation a rounding; only mode I is scaled whatever the byte order.
    grey = image.convert("I").point(lambda value: value * _16_TO_8_BITS + 0.5)
    return grey.convert("L").convert("RGB")


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
