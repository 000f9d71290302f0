"""The practices of a training, each against the plain loop that it stands for: averaging, clipping, growth, memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

from gpuplan_job import network_options, optim, train
from gpuplan_job.batch_growth import TrainingLayout, accumulations
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec
from gpuplan_job.ema import EMA_WEIGHTS, WeightAverage
from gpuplan_job.loaders import DataSets, permutation
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpuplan_job.contract import BatchSchedule, Optimizer, TrainResult, WorkloadSpec

State = dict[str, Tensor]
ALONE = Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
SAMPLES, CLASSES = 48, 3


class Patterns(Dataset[tuple[Tensor, int]]):
    """Small noisy images of three kinds."""

    def __init__(self, samples: int) -> None:
        generator = torch.Generator().manual_seed(1)
        kinds = torch.randn(CLASSES, 2, 6, 6, generator=generator)
        self.labels = (torch.arange(samples) % CLASSES).tolist()
        self.images = kinds[self.labels] + torch.randn(samples, 2, 6, 6, generator=generator)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


class Block(nn.Module):
    """A residual block with dropout, of the kind that is checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = inputs + self.two(self.drop(self.one(inputs).relu()))
        return outputs


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), Block(), Block(), nn.Flatten(), nn.Linear(4 * 16, CLASSES)
    )


@pytest.fixture
def job_input(train_input: JobInput) -> JobInput:
    return replace(train_input, batch=BatchSpec(8, 1, 1))


def fit(job_input: JobInput, folder: Path, module: nn.Module | None = None) -> TrainResult:
    data = DataSets(Patterns(SAMPLES), Patterns(12))
    return train.fit(job_input, "0" * 64, module or network(), data, folder, ALONE)


def checkpoint(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint(folder)["state_dict"]
    return found


def with_workload(job_input: JobInput, **changes: Any) -> JobInput:  # noqa: ANN401 - any field
    return replace(job_input, workload=replace(job_input.workload, **changes))


def plain(
    workload: WorkloadSpec, rate: float, *, ema: float | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train a plain network with a loop of one's own; return its weights and their average."""
    torch.manual_seed(4)
    module = nn.Linear(72, CLASSES)
    average = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=workload.momentum)
    held, steps = Patterns(SAMPLES), 0
    for epoch in range(workload.epochs):
        for chosen in torch.split(permutation(SAMPLES, workload.seed, epoch), 8):
            outputs = module(held.images[chosen].flatten(1))
            loss = nn.functional.cross_entropy(outputs, torch.tensor(held.labels)[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
            if workload.clip_norm is not None:
                nn.utils.clip_grad_norm_(module.parameters(), workload.clip_norm)
            optimizer.step()
            steps += 1
            for name, p in module.named_parameters():
                average[name].lerp_(p.detach(), 1 - min(ema or 0, (1 + steps) / (10 + steps)))
    return {name: p.detach() for name, p in module.named_parameters()}, average


def flat() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES))


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], prefix: str = "network.1.") -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[prefix + name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_average_moves_once_an_optimizer_step_and_is_what_is_validated(
    tmp_path: Path, job_input: JobInput, accumulation: int
) -> None:
    job = with_workload(job_input, ema_decay=0.8, schedule="constant", weight_decay=0.0)
    result = fit(replace(job, batch=BatchSpec(8 // accumulation, 1, accumulation)), tmp_path, flat())
    trained, average = plain(job.workload, 0.05, ema=0.8)
    close(weights(tmp_path), trained)
    close(checkpoint(tmp_path)[EMA_WEIGHTS], average)
    held = Patterns(12)
    logits = held.images.flatten(1) @ average["weight"].T + average["bias"]
    wanted = nn.functional.cross_entropy(logits, torch.tensor(held.labels)).item()
    assert result.epochs[-1].val_loss == pytest.approx(wanted, rel=1e-4)


def test_running_statistics_are_averaged_with_the_weights_and_counts_are_not(
    tmp_path: Path, job_input: JobInput
) -> None:
    torch.manual_seed(4)
    module = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    result = fit(with_workload(job_input, ema_decay=0.8), tmp_path, module)
    state, average = weights(tmp_path), checkpoint(tmp_path)[EMA_WEIGHTS]
    assert average.keys() == state.keys()
    assert not torch.equal(average["network.2.running_mean"], state["network.2.running_mean"])
    assert torch.equal(average["network.2.num_batches_tracked"], state["network.2.num_batches_tracked"])
    module.load_state_dict({name.removeprefix("network."): value for name, value in average.items()})
    held = Patterns(12)
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(module.eval()(held.images), torch.tensor(held.labels)).item()
    assert result.epochs[-1].val_loss == pytest.approx(loss, rel=1e-5)


def test_the_average_goes_on_from_a_checkpoint(tmp_path: Path, job_input: JobInput) -> None:
    job = with_workload(job_input, ema_decay=0.8, schedule="constant", epochs=3)
    whole = fit(job, tmp_path / "whole")

    class CutError(Exception):
        pass

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.left = network(), 15

        def forward(self, inputs: Tensor) -> Tensor:
            self.left -= self.training
            if self.left < 0:
                raise CutError
            outputs: Tensor = self.inner(inputs)
            return outputs

    with pytest.raises(CutError):
        fit(job, tmp_path / "cut", Cut())
    module = Cut()
    module.left = 100
    resumed = fit(job, tmp_path / "cut", module)
    assert resumed.epochs[-1].val_loss == whole.epochs[-1].val_loss


def test_the_gradient_of_a_whole_step_is_clipped(tmp_path: Path, job_input: JobInput) -> None:
    job = with_workload(job_input, clip_norm=0.1, schedule="constant", weight_decay=0.0)
    fit(replace(job, batch=BatchSpec(2, 1, 4)), tmp_path, flat())
    close(weights(tmp_path), plain(job.workload, 0.05)[0])


def test_weight_decay_leaves_norms_and_biases_alone_unless_told_otherwise(job_input: JobInput) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm((4, 2, 2)), nn.Linear(4, 2))
    decayed, spared = optim.build(job_input.workload, module, 0.1).param_groups
    assert [p.dim() for p in decayed["params"]] == [4, 2]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert len(spared["params"]) == 6
    (everything,) = optim.build(replace(job_input.workload, decay_norms=True), module, 0.1).param_groups
    assert len(everything["params"]) == 8


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_every_optimizer_learns_and_goes_on_from_its_checkpoint(
    tmp_path: Path, job_input: JobInput, optimizer: Optimizer
) -> None:
    rate = {"sgd": 0.05, "adamw": 0.01, "lamb": 0.02}[optimizer]
    job = replace(with_workload(job_input, optimizer=optimizer, epochs=4), train=TrainSpec(rate))
    epochs = fit(job, tmp_path).epochs
    assert epochs[-1].train_loss < 0.8 * epochs[0].train_loss
    assert fit(job, tmp_path).epochs == epochs


@given(
    schedule=st.sampled_from(["constant", "linear", "exponential"]),
    accumulation=st.integers(1, 16),
    epochs=st.integers(1, 40),
)
def test_the_batch_never_shrinks_and_ends_at_the_full_one(
    schedule: BatchSchedule, accumulation: int, epochs: int
) -> None:
    found = accumulations(schedule, accumulation, epochs)
    assert len(found) == epochs
    assert all(a <= b for a, b in pairwise(found))
    assert found[-1] == accumulation
    if schedule != "constant" and epochs > 1:
        assert found[0] == 1


def test_a_growing_batch_takes_its_steps_and_the_rate_follows_it(tmp_path: Path, job_input: JobInput) -> None:
    job = with_workload(job_input, batch_schedule="linear", schedule="constant", epochs=3)
    job = replace(job, batch=BatchSpec(8, 1, 3), train=TrainSpec(0.06, lr_shares=[0.5, 0.75, 1.0]))
    result = fit(job, tmp_path)
    layout = TrainingLayout.of(SAMPLES, job.batch, "linear", 3)
    assert [epoch.accumulation for epoch in layout.epochs] == [1, 2, 3]
    assert layout.starts == (0, 6, 9, 11)
    assert result.optimizer_steps == layout.steps
    assert [epoch.learning_rate for epoch in result.epochs] == pytest.approx([0.03, 0.045, 0.06])


def test_one_cycle_follows_a_growing_batch_too(job_input: JobInput) -> None:
    workload = job_input.workload
    optimizers = [optim.build(workload, nn.Linear(2, 2), 0.1) for _ in range(2)]
    spec = TrainSpec(0.1)
    alone = optim.schedule(workload, optimizers[0], spec, 10)
    following = optim.schedule(workload, optimizers[1], spec, 10, following=lambda step: 0.5 if step < 5 else 1.0)
    for step in range(10):
        one, other = (optimizer.param_groups[0]["lr"] for optimizer in optimizers)
        assert other == pytest.approx(one * (0.5 if step < 5 else 1.0))
        for optimizer, schedule in zip(optimizers, (alone, following), strict=True):
            optimizer.step()
            schedule.step()


def without_dropout() -> nn.Module:
    """Return the network whose outcome no memory format changes: dropout draws in the order of memory."""
    module = network()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


@pytest.mark.parametrize(
    ("practice", "build"), [("checkpointing", network), ("channels_last", without_dropout), ("compile", network)]
)
def test_what_saves_memory_or_time_trains_to_the_same_weights(
    tmp_path: Path, job_input: JobInput, practice: str, build: Callable[[], nn.Module]
) -> None:
    fit(job_input, tmp_path / "plain", build())
    wanted = weights(tmp_path / "plain")
    # Through the compiled call, without the half minute that compiling takes.
    with torch.compiler.set_stance("force_eager"):
        fit(with_workload(job_input, **{practice: True}), tmp_path / practice, build())
    found = weights(tmp_path / practice)
    assert set(found) == set(wanted)
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-5)


def test_sync_batchnorm_on_a_cpu_says_that_it_is_not(job_input: JobInput, capsys: pytest.CaptureFixture[str]) -> None:
    workload = replace(job_input.workload, sync_batchnorm=True)
    network_options.apply(nn.BatchNorm1d(2), workload, torch.device("cpu"), world_size=2)
    assert "SyncBatchNorm needs CUDA" in capsys.readouterr().err
    converted = network_options.apply(nn.BatchNorm1d(2), workload, torch.device("cuda"), world_size=2)
    assert isinstance(converted, nn.SyncBatchNorm)


def test_a_checkpoint_within_a_validation_holds_tied_weights_and_their_average_under_all_names() -> None:
    module: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    trainer: Any = SimpleNamespace(world_size=1, global_step=0)
    average = WeightAverage(0.9)
    average.on_fit_start(trainer, module)
    first = module[0].weight.detach().clone()
    with torch.no_grad():
        module[0].weight.add_(1.0)
    wanted = module[0].weight.detach().clone()
    average.on_validation_start(trainer, module)
    saved: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    average.on_save_checkpoint(trainer, module, saved)
    assert saved[EMA_WEIGHTS].keys() == saved["state_dict"].keys()
    for name in ("0.weight", "1.weight"):
        assert torch.equal(saved["state_dict"][name], wanted)
        assert torch.equal(saved[EMA_WEIGHTS][name], first)
