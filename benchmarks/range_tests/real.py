"""Range tests that were really run, on the digits: by gpuplan's own job on small networks, sound ones and spoilt ones.

Called by `lr_bad_curves.py`. Needs torch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from lr.networks import NETWORKS
from torch import nn

from gpuplan_job import data, lr_find
from gpuplan_job.contract import BatchSpec, JobInput, LrTarget, SweepSpec, WorkloadSpec
from gpuplan_job.data._in_memory import InMemory
from gpuplan_job.loaders import DataSets
from range_tests.recorded import HIGH, LOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from torch import Tensor

    from gpuplan_job.contract import LrResult

    Spoil = Callable[["Spoilable"], None]

CPU = torch.device("cpu")
RUNS = 3
OPTIMIZERS = ("sgd", "adamw")


@dataclass
class Spoilable:
    """What a kind of bad range test may change."""

    images: Tensor
    labels: Tensor
    network: nn.Module
    generator: torch.Generator


class _Scaled(nn.Module):
    """Logits times a factor: zero leaves no gradient."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) * self.factor
        return logits


def _shuffled_labels(run: Spoilable) -> None:
    run.labels = run.labels[torch.randperm(len(run.labels), generator=run.generator)]


def _images_of_noise(run: Spoilable) -> None:
    run.images = torch.randn(run.images.shape, generator=run.generator)


def _blank_images(run: Spoilable) -> None:
    run.images = torch.zeros_like(run.images)


def _no_gradient(run: Spoilable) -> None:
    run.network = _Scaled(run.network, 0.0)


def _exploding_images(run: Spoilable) -> None:
    run.images = run.images * 1e38


def _nan_in_images(run: Spoilable) -> None:
    run.images = run.images.clone()
    run.images[torch.randperm(len(run.images), generator=run.generator)[: len(run.images) // 100]] = math.nan


SPOILS: dict[str, Spoil] = {
    "real: shuffled labels": _shuffled_labels,
    "real: images of noise": _images_of_noise,
    "real: blank images": _blank_images,
    "real: no gradient": _no_gradient,
    "real: images x 1e38": _exploding_images,
    "real: NaN in 1 % of the images": _nan_in_images,
}


def bad_results() -> Iterator[tuple[str, LrResult]]:
    """Yield a range test of three runs for each way to spoil one, network and optimizer.

    Shuffled labels a second time with larger batches: the less noise, the more a fall to chance looks like learning.
    """
    for name, (kind, optimizer) in itertools.product(SPOILS, itertools.product(NETWORKS, OPTIMIZERS)):
        yield name, _run(kind, optimizer, 60, 32, SPOILS[name])
    for kind, optimizer in itertools.product(NETWORKS, OPTIMIZERS):
        yield "real: shuffled labels, batch 128", _run(kind, optimizer, 120, 128, _shuffled_labels)


def sound_results() -> Iterator[tuple[str, LrResult]]:
    """Yield a range test of three runs for each network, optimizer, and number of steps and batch."""
    for kind, optimizer in itertools.product(NETWORKS, OPTIMIZERS):
        for iterations, batch in ((60, 32), (100, 32), (100, 128), (200, 16), (200, 128)):
            yield f"{kind}, {optimizer}", _run(kind, optimizer, iterations, batch)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    samples, _ = data.load("digits", None)
    pairs = [samples[index] for index in range(len(samples))]  # type: ignore[arg-type] # torch declares no __len__
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def _run(kind: str, optimizer: str, iterations: int, batch: int, spoil: Spoil | None = None) -> LrResult:
    images, labels = _digits()
    if spoil is not None:
        changed = Spoilable(images, labels, nn.Identity(), torch.Generator().manual_seed(iterations))
        spoil(changed)
        images, labels = changed.images, changed.labels

    def network() -> nn.Module:
        fresh = NETWORKS[kind](1, 8)
        if spoil is not None:
            changed = Spoilable(images, labels, fresh, torch.Generator())
            spoil(changed)
            return changed.network
        return fresh

    steps = 20 * len(labels) // batch
    job = JobInput(
        run_id="run",
        step="lr-find",
        attempt=1,
        plan_id="plan",
        workload=_workload(kind, "sgd" if optimizer == "sgd" else "adamw"),
        batch=BatchSpec(batch, 1, 1),
        device="cpu",
        sweep=SweepSpec(RUNS, iterations, LOW, HIGH, steps, 0, LrTarget("edge", "none", batch, steps)),
    )
    held = InMemory(images, labels)
    return lr_find.range_test(job, "0" * 64, network, DataSets(held, held), CPU, lambda _progress: None)


def first_run_only(result: LrResult) -> LrResult:
    """Return the result as it would be of one run."""
    return replace(result, curves=result.curves[:1], sweep=replace(result.sweep, runs=1))


def _workload(kind: str, optimizer: Literal["sgd", "adamw"]) -> WorkloadSpec:
    return WorkloadSpec(
        model=kind,
        data="digits",
        optimizer=optimizer,
        momentum=0.9,
        weight_decay=5e-4 if optimizer == "sgd" else 1e-2,
        schedule="onecycle",
        label_smoothing=0.0,
        epochs=20,
        precision="fp32",
        seed=100,
        workers=0,
    )
