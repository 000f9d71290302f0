"""Reads images out of tar archives by their offsets, in any order, and prepares them as image files are.

Used by the `webdataset` kind; only a job imports it. A sample is one read of one archive, whoever asks and in whatever
order, so sharding over ranks, exact validation and going on in the middle are those of any other data.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.data import Dataset

from gpuplan_job.data import DataError, _tar_index
from gpuplan_job.data._image_files import decoded, training_transform, validation_transform
from gpuplan_job.data._image_listing import DEFAULT_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from gpuplan_job.data.webdataset import ShardedSamples


class _Member:
    """The name of an image in a shard, looked up only where somebody has to be told."""

    def __init__(self, shard: str, offset: int) -> None:
        self.shard = shard
        self.offset = offset

    def __str__(self) -> str:
        """Return member and shard."""
        try:
            names = [sample.member for sample in _tar_index.index(Path(self.shard)) if sample.offset == self.offset]
        except (OSError, DataError):
            names = []  # the shard is not what it was when the job began
        return f"{names[0] if names else f'at byte {self.offset}'} in the shard {self.shard}"


class ShardImages(Dataset[tuple[Tensor, int]]):
    """Pairs of a prepared image [3, side, side] and its class, each image a member of a shard."""

    def __init__(self, samples: ShardedSamples, transform: Callable[[Image], Tensor]) -> None:
        self.samples = samples
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        found = self.samples
        shard, offset = found.shards[found.shard[index]], found.offset[index]
        # Opened each time, for 10 us against a decoding of ms: processes share no descriptors and run out of none.
        try:
            with open(shard, "rb", buffering=0) as file:  # noqa: PTH123 - Path.open costs as much again
                file.seek(offset)
                content = file.read(found.size[index])
        except OSError as error:
            raise DataError(
                f"cannot read the shard {shard}: {error.strerror}; put it back, then start again"
            ) from error
        return self.transform(decoded(io.BytesIO(content), _Member(shard, offset))), found.label[index]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Sequence[int]:
        """The class of each sample, without reading it."""
        return self.samples.label


def shard_images(train: ShardedSamples, val: ShardedSamples, image_size: int | None) -> tuple[ShardImages, ShardImages]:
    """Return (training, validation) data sets, the training images augmented, the others centred."""
    side = image_size or DEFAULT_SIDE
    return ShardImages(train, training_transform(side)), ShardImages(val, validation_transform(side))
