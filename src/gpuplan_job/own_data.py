"""Data of the user's own: data sets and collate functions of a LightningDataModule, or a pair that a function returns.

Called by `train`, `lr_find`, `check` and `trace`. gpuplan makes the loaders itself, so that every sample is seen once;
what a user's loader says beyond its data set and its collate function is refused or noted, never dropped in silence.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from gpuplan_job import user_code
from gpuplan_job.failures import JobError
from gpuplan_job.lightning_methods import writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FLAG = "--data"
_PREPARED = "data-prepared"
_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_PLAIN_SAMPLERS = (RandomSampler, SequentialSampler, DistributedSampler)


@dataclass(frozen=True)
class OwnData:
    """Map-style data sets, with what makes a batch of their samples."""

    train: Dataset[Any]
    val: Dataset[Any]
    train_collate: Callable[[list[Any]], Any]
    val_collate: Callable[[list[Any]], Any]
    module: Any = None
    """The LightningDataModule, which may state its classes; None where a function returned the data sets."""
    notes: list[str] = field(default_factory=list)
    """What of the user's loaders gpuplan does in another way."""


def load(spec: str, arguments: Mapping[str, Any], once: Path | None = None) -> OwnData:
    """Return the training and the validation data that `module:Attribute` gives for keyword arguments.

    `prepare_data` of a LightningDataModule runs in one process of a machine, while the others wait for it: the first to
    lock a file in `once`, a folder that all of them have; without one it simply runs.

    Raises:
        JobError: the code fails, with file and line; or the data are not what can be shared out exactly among GPUs.
    """
    made = user_code.construct(spec, arguments, FLAG)
    if hasattr(made, "train_dataloader"):
        return _of_module(spec, made, once)
    if isinstance(made, tuple) and len(made) == 2:  # noqa: PLR2004 - a pair
        train, val = (_checked(spec, data, role) for data, role in zip(made, ("training", "validation"), strict=True))
        return OwnData(train, val, default_collate, default_collate)
    raise JobError(
        "usage",
        f"{FLAG} {spec} gives a {type(made).__name__}: neither a LightningDataModule nor a pair of data sets",
        "name a LightningDataModule, or a function that returns (training set, validation set)",
    )


def count(data: Dataset[Any]) -> int:
    """Return the number of samples of a data set that `load` returned."""
    return len(data)  # type: ignore[arg-type] # torch declares no __len__; `load` refuses a set without one


def batch(spec: str, own: OwnData, size: int) -> Any:  # noqa: ANN401 - whatever the user's collate function makes
    """Return a batch of `size` training samples, spread over the set; a smaller set repeats some.

    Raises:
        JobError: a sample cannot be read, or a batch cannot be made of them.
    """
    samples = []
    for place in range(size):
        index = place * count(own.train) // size
        try:
            samples.append(own.train[index])
        except user_code.FAILURES as error:
            raise user_code.failed(f"{FLAG} {spec}: training sample {index} cannot be read", error) from error
    try:
        return own.train_collate(samples)
    except user_code.FAILURES as error:
        fix = "samples must be tensors of one shape, arrays or numbers; or give the DataLoader a collate_fn"
        raise user_code.failed(f"{FLAG} {spec}: no batch can be made of {size} samples", error, fix) from error


def _of_module(spec: str, module: Any, once: Path | None) -> OwnData:  # noqa: ANN401 - a user's class
    for hook in _HOOKS:
        if writer(module, hook) is not None:
            raise JobError(
                "usage",
                f"{FLAG} {spec} has {hook} of its own, and gpuplan calls such hooks of the model alone",
                f"move it to the model (LightningModule.{hook}), or do it in collate_fn",
            )
    _prepare(spec, module, once)
    _call(spec, module, "setup", "fit")
    train, val = (_call(spec, module, f"{part}_dataloader") for part in ("train", "val"))
    if train is None or val is None:
        part = "train" if train is None else "val"
        raise JobError(
            "usage",
            f"{FLAG} {spec} has no {part}_dataloader, and each epoch of a training ends with a validation",
            f"return a DataLoader from {part}_dataloader",
        )
    notes: list[str] = []
    sets = [_of_loader(spec, loader, part, notes) for loader, part in ((train, "train"), (val, "val"))]
    (train_set, train_collate), (val_set, val_collate) = sets
    return OwnData(train_set, val_set, train_collate, val_collate, module, notes)


def _prepare(spec: str, module: Any, once: Path | None) -> None:  # noqa: ANN401 - a user's class
    if once is None:
        _call(spec, module, "prepare_data")
        return
    # The lock ends with its process, however that ends; whoever waits then looks for the mark.
    with (once / f"{_PREPARED}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (once / _PREPARED).exists():
            _call(spec, module, "prepare_data")
            (once / _PREPARED).touch()


def _call(spec: str, module: Any, method: str, *arguments: str) -> Any:  # noqa: ANN401 - a user's class
    """Return what a method gives; None where the class has none of its own."""
    if writer(module, method) is None:
        return None
    try:
        return getattr(module, method)(*arguments)
    except JobError:
        raise
    except user_code.FAILURES as error:
        raise user_code.failed(f"{FLAG} {spec}: {method} failed", error) from error


def _of_loader(spec: str, loader: Any, part: str, notes: list[str]) -> tuple[Dataset[Any], Callable[[list[Any]], Any]]:  # noqa: ANN401 - a user's
    """Return data set and collate function of a loader that can be replaced by one of gpuplan's own.

    Raises:
        JobError: it cannot.
    """
    method = f"{FLAG} {spec}: {part}_dataloader"
    if not isinstance(loader, DataLoader):
        several = isinstance(loader, list | tuple | dict) or hasattr(loader, "iterables")
        what = "several loaders" if several else f"a {type(loader).__name__}, no DataLoader"
        fix = "return one DataLoader; torch.utils.data.ConcatDataset joins data sets"
        raise JobError("usage", f"{method} gives {what}", fix)
    data = _checked(spec, loader.dataset, "training" if part == "train" else "validation")
    batches = loader.batch_sampler
    if batches is None:
        raise JobError(
            "usage",
            f"{method} has batch_size=None: its data set makes the batches, and gpuplan cannot cut them",
            "let the data set give single samples, and collate_fn make the batch",
        )
    if type(batches) is not BatchSampler or type(loader.sampler) not in _PLAIN_SAMPLERS:
        sampler = type(batches if type(batches) is not BatchSampler else loader.sampler).__name__
        raise JobError(
            "usage",
            f"{method} draws with a {sampler}: gpuplan shows each sample once an epoch, in an order of its own",
            "use shuffle=True alone; to weigh classes, weigh the loss or repeat samples in the data set",
        )
    if loader.worker_init_fn is not None:
        notes.append(f"{part}_dataloader's worker_init_fn is not called: random draws follow the sample and the seed")
    return data, loader.collate_fn


def _checked(spec: str, data: Any, role: str) -> Dataset[Any]:  # noqa: ANN401 - a user's
    """Return a map-style data set that holds a sample.

    Raises:
        JobError: it is none.
    """
    what = f"{FLAG} {spec}: its {role} data"
    if isinstance(data, IterableDataset):
        raise JobError(
            "usage",
            f"{what} are an IterableDataset, {type(data).__name__}: a stream cannot be shared out exactly among GPUs",
            "write it as a data set with __len__ and __getitem__, or use shards: --data webdataset:...",
        )
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        name = type(data).__name__
        raise JobError("usage", f"{what} are a {name} without __len__ and __getitem__", "return a map-style data set")
    try:
        samples = len(data)
    except user_code.FAILURES as error:
        raise user_code.failed(f"{what} have no length", error) from error
    if samples == 0:
        fix = "check where it looks for them: a relative path is taken from the folder of the code"
        raise JobError("data", f"{what} are empty", fix)
    return data  # type: ignore[no-any-return] # what was just checked
