"""Saved between any two optimizer steps, a training goes on to the same bits, and stops within the grace."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gpuplan_job import loaders, train
from gpuplan_job.contract import BatchSpec, JobInput, TrainResult, TrainSpec
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Batch = tuple[Tensor, Tensor]
ALONE = Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
EPOCHS = 3
EACH_STEP = TrainSpec(0.05, 10, 0.25, checkpoint_seconds=1e-9)


class CutOffError(Exception):
    """Stands for whatever ends a training in its midst."""


class Shaken(Dataset[tuple[Tensor, int]]):
    """Two clouds of points, shaken anew each time if they are to train on; counts what was asked for."""

    def __init__(self, samples: int, noise: float) -> None:
        self.samples = samples
        self.noise = noise
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        centre = torch.randn(3, generator=torch.Generator().manual_seed(index)) + 1.0 * (index % 2)
        return centre + self.noise * torch.randn(3), index % 2

    def __len__(self) -> int:
        return self.samples


def mixed(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Put samples together with noise of the batch's own: a collate may draw at random, too."""
    points, classes = zip(*samples, strict=True)
    return torch.stack(points) + 0.1 * torch.randn(1), torch.tensor(classes)


class Cut(nn.Module):
    """A network with dropout and BatchNorm that calls back before each forward pass, in training and in validation."""

    def __init__(self, before: Callable[[bool], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
        self.before = before

    def forward(self, points: Tensor) -> Tensor:
        self.before(self.training)
        logits: Tensor = self.layers(points)
        return logits


class Hooked(pl.LightningModule):
    """A module that draws at random and keeps state in the hooks around a step, and has schedules of its own."""

    def __init__(self, before: Callable[[bool], None]) -> None:
        super().__init__()
        self.network = Cut(before)
        self.teacher: Tensor
        self.register_buffer("teacher", torch.zeros(16))
        self.learning_rate = 0.05
        self.started = False

    def on_train_epoch_start(self) -> None:
        self.started = True

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        del dataloader_idx
        points, classes = batch
        return (points + 0.1 * torch.randn(1) if self.trainer.training else points), classes

    def training_step(self, batch: Batch) -> Tensor:
        assert self.started
        points, classes = batch
        return functional.cross_entropy(self.network(points), classes)

    def on_train_batch_end(self, *_: object) -> None:
        bias = dict(self.network.named_parameters())["layers.0.bias"].detach()
        self.teacher += 0.1 * (bias - self.teacher) + 0.01 * torch.randn(16)

    def validation_step(self, batch: Batch) -> None:
        points, classes = batch
        loss = functional.cross_entropy(self.network(points + 0.1 * torch.randn(1)) + self.teacher[:2], classes)
        self.log("val_loss", loss)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - whatever Lightning takes
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


@pytest.fixture
def job_input(train_input: JobInput) -> JobInput:
    workload = replace(train_input.workload, epochs=EPOCHS, label_smoothing=0.1)
    return replace(train_input, workload=workload, batch=BatchSpec(6, 1, 3), train=EACH_STEP)


def fit(
    job_input: JobInput, folder: Path, before: Callable[[bool], None] = lambda _: None, samples: int = 50
) -> tuple[TrainResult, Shaken]:
    data = Shaken(samples, 0.3)
    torch.manual_seed(next(_DRAWN))  # what a process has drawn before must not matter
    kind = Hooked if job_input.workload.optimizer == "own" else Cut
    sets = loaders.DataSets(data, Shaken(20, 0.0), mixed)
    return train.fit(job_input, "0" * 64, kind(before), sets, folder, ALONE), data


_DRAWN = itertools.count(100)


def cut_at(forward: int, *, training: bool = True) -> Callable[[bool], None]:
    """Return what ends a training at its forward pass of this number, counted from 0, in training or in validation."""
    passes = itertools.count()

    def before(trains: bool) -> None:  # noqa: FBT001 - one thing to tell
        if trains == training and next(passes) == forward:
            raise CutOffError

    return before


def kept(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield all that a checkpoint holds by path, but for times and memory."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("Measuring", "seconds"):
                yield from kept(part, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from kept(part, f"{path}.{index}")
    else:
        yield path, value.tolist() if isinstance(value, Tensor) else value


def stored(folder: Path, name: str = "last.ckpt") -> dict[str, object]:
    return dict(kept(torch.load(folder / "checkpoints" / name, weights_only=True)))


def figures(result: TrainResult) -> list[dict[str, object]]:
    return [asdict(replace(metrics, seconds=0.0)) for metrics in result.epochs]


GROWING = {"batch_schedule": "linear"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "ema_decay": 0.7, "clip_norm": 0.5},
        {"precision": "bf16-mixed", "workers": 2},
        {**GROWING, "ema_decay": 0.9},
        {"optimizer": "own", "schedule": "own"},
    ],
    ids=str,
)
def test_cut_off_anywhere_within_an_epoch_a_training_goes_on_to_the_same_bits(
    tmp_path: Path, job_input: JobInput, changes: dict[str, Any]
) -> None:
    job_input = replace(job_input, workload=replace(job_input.workload, **changes))
    whole, _ = fit(job_input, tmp_path / "whole")
    # In an epoch's first step and its last, which is ragged; before and within a validation; one after the other.
    cuts = [cut_at(4), cut_at(5), cut_at(1, training=False), cut_at(7), cut_at(0, training=False)]
    for attempt, cut in enumerate(cuts, 1):
        with pytest.raises(CutOffError):
            fit(replace(job_input, attempt=attempt), tmp_path / "cut", cut)
    resumed, _ = fit(job_input, tmp_path / "cut")
    assert figures(resumed) == figures(whole)
    assert (resumed.best_epoch, resumed.optimizer_steps) == (whole.best_epoch, whole.optimizer_steps)
    for name in ("last.ckpt", "best.ckpt"):
        assert stored(tmp_path / "cut", name) == stored(tmp_path / "whole", name)
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 4
