"""What a plan, and a torchvision model, need to know of data of the user's own: samples, shape, classes.

Called by `check`, and by `train` and `lr_find` where they build a model for such data. It reads a few samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from gpuplan_job import own_data
from gpuplan_job.contract import DataDescription

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.own_data import OwnData

_LOOKED_AT = 200
"""Samples whose targets are looked at where nothing states the classes."""
_IMAGE_DIMENSIONS = 3


def describe(spec: str, own: OwnData) -> DataDescription:
    """Return counts, the shape of a sample's first tensor, and the classes, of data that `own_data.load` returned.

    Classes are those that the data module or a data set states (`num_classes`, `classes`, `targets`, `labels`), else
    one more than the largest whole-number target among up to 200 samples; 0 where targets are no classes.

    Raises:
        JobError: a sample cannot be read.
    """
    first = next(tensors(own_data.batch(spec, own, 2)), torch.zeros(2, 1))
    shape = tuple(first.shape[1:])
    image = len(shape) == _IMAGE_DIMENSIONS and first.dtype in (torch.float32, torch.float16, torch.uint8)
    *rest, height, width = (1, 1, 1, *shape)[-max(3, len(shape)) :]
    return DataDescription(
        train_samples=own_data.count(own.train),
        val_samples=own_data.count(own.val),
        channels=int(torch.Size(rest).numel()),
        height=height,
        width=width,
        classes=_classes(spec, own),
        bytes_per_sample=0.0,
        sample="" if image else shown(first[0]),
        source=f"as {spec} gives them",
    )


def tensors(batch: object) -> Iterator[Tensor]:
    """Yield the tensors in a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
        return
    items = list(batch.values()) if isinstance(batch, Mapping) else batch
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        return
    for item in items:
        yield from tensors(item)


def shown(tensor: Tensor) -> str:
    """Return type and shape of a tensor as people write them: `float32 [2, 1, 8, 8]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _classes(spec: str, own: OwnData) -> int:
    for holder in (own.module, *_unwrapped(own.train), *_unwrapped(own.val)):
        stated = getattr(holder, "num_classes", None)
        if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
            return stated
        named = getattr(holder, "classes", None)
        if isinstance(named, list | tuple) and named:
            return len(named)
    exact = [found for data in (own.train, own.val) if (found := _largest_stated(data)) is not None]
    if exact:
        return max(exact) + 1
    looked = own_data.batch(spec, own, min(_LOOKED_AT, own_data.count(own.train)))
    *_, last = (None, *tensors(looked))
    return int(last.max()) + 1 if last is not None and _are_classes(last) else 0


def _largest_stated(data: object) -> int | None:
    """Return the largest of the targets that a data set holds as numbers, None where it holds none."""
    for holder in _unwrapped(data):
        found = holder.tensors[-1] if isinstance(holder, TensorDataset) else None
        for name in ("targets", "labels"):
            found = getattr(holder, name, None) if found is None else found
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            targets = torch.as_tensor(found)
            return int(targets.max()) if _are_classes(targets) else None
    return None


def _are_classes(targets: Tensor) -> bool:
    whole = targets.dtype in (torch.int64, torch.int32, torch.uint8)
    return whole and targets.dim() == 1 and targets.numel() > 0 and int(targets.min()) >= 0


def _unwrapped(data: Any) -> Iterator[Any]:  # noqa: ANN401 - a user's data set
    """Yield a data set and those it is a part of, as a Subset is."""
    while data is not None:
        yield data
        data = getattr(data, "dataset", None)
