"""Models that are the user's own: a LightningModule with its optimizer, a network with its loss; both uses of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gpuplan_job import lr_find, network_loss, train
from gpuplan_job.contract import BatchSpec, JobInput, LrTarget, SweepSpec, TrainSpec
from gpuplan_job.failures import JobError
from gpuplan_job.loaders import DataSets
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpuplan_job.contract import TrainResult

ALONE = Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
SAMPLES, STEPS = 50, 7
"""Seven steps of eight samples, the last of two."""


class Line(Dataset[tuple[Tensor, Tensor]]):
    """Points of a noisy plane."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        point = torch.randn(3, generator=torch.Generator().manual_seed(index))
        return point, point.sum().reshape(1)

    def __len__(self) -> int:
        return self.samples


class Regression(pl.LightningModule):
    """A user's module: its own step, optimizer, schedule and logging."""

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.layer = nn.Linear(3, 1)
        self.seen: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.mse_loss(self.layer(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        inputs, targets = batch
        outputs = self.layer(inputs)
        self.log_dict(
            {"val/loss": nn.functional.mse_loss(outputs, targets), "val_mae": (outputs - targets).abs().mean()}
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, total_iters=2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Stubborn(Regression):
    def configure_optimizers(self) -> Any:  # noqa: ANN401 - as above
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Manual(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Rateless(Regression):
    def __init__(self) -> None:
        super().__init__()
        del self.learning_rate

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - as above
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithLoss(nn.Module):
    """A network that brings its loss and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)


@pytest.fixture
def job_input(train_input: JobInput) -> JobInput:
    workload = replace(train_input.workload, optimizer="own", schedule="own")
    return replace(train_input, workload=workload, batch=BatchSpec(8, 1, 1))


def fit(job_input: JobInput, folder: Path, module: nn.Module) -> TrainResult:
    data: Any = DataSets(Line(SAMPLES), Line(20))  # type: ignore[arg-type] # targets are numbers here, not classes
    return train.fit(job_input, "0" * 64, module, data, folder, ALONE)


def test_a_module_trains_with_its_own_optimizer_and_schedule_at_the_rate_it_is_given(
    tmp_path: Path, job_input: JobInput
) -> None:
    module = Regression()
    result = fit(job_input, tmp_path, module)
    assert module.seen == pytest.approx([0.025, 0.0375, *[0.05] * (2 * STEPS - 2)])
    assert result.epochs[1].train_loss < result.epochs[0].train_loss
    assert result.optimizer_steps == 2 * STEPS


def test_the_figures_of_an_epoch_are_what_the_module_logs_each_sample_once(tmp_path: Path, job_input: JobInput) -> None:
    module = Regression()
    last = fit(job_input, tmp_path, module).epochs[-1]
    inputs, targets = (torch.stack(part) for part in zip(*[Line(20)[index] for index in range(20)], strict=True))
    with torch.no_grad():
        outputs = module.layer(inputs)
    assert last.val_loss == pytest.approx(nn.functional.mse_loss(outputs, targets).item(), rel=1e-5)
    assert last.logged == {"val_mae": pytest.approx((outputs - targets).abs().mean().item(), rel=1e-5)}
    assert last.val_accuracy is None
    assert last.score == -(last.val_loss or math.nan)


def test_gpuplans_schedule_can_drive_the_modules_optimizer(tmp_path: Path, job_input: JobInput) -> None:
    module = Regression()
    fit(replace(job_input, workload=replace(job_input.workload, schedule="constant")), tmp_path, module)
    assert module.seen == pytest.approx([0.05] * 2 * STEPS)


def test_gpuplans_optimizer_can_take_the_place_of_the_modules(tmp_path: Path, job_input: JobInput) -> None:
    workload = replace(job_input.workload, optimizer="sgd", schedule="cosine")
    module = Regression()
    fit(replace(job_input, workload=workload, train=TrainSpec(0.05, 2, 0.5)), tmp_path, module)
    falling = [0.05 * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert module.seen == pytest.approx([0.025, 0.0375, *falling])


def test_the_last_ragged_step_weighs_its_samples_as_a_plain_loop_over_whole_batches(
    tmp_path: Path, job_input: JobInput
) -> None:
    workload = replace(job_input.workload, optimizer="sgd", schedule="constant", weight_decay=0.0, epochs=1)
    steps = []
    for per_gpu, accumulation in ((4, 4), (16, 1)):
        torch.manual_seed(0)
        module = Regression()
        job = replace(job_input, workload=workload, batch=BatchSpec(per_gpu, 1, accumulation))
        fit(job, tmp_path / str(per_gpu), module)
        steps.append([p.detach().clone() for p in module.parameters()])
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Stubborn, "does not use Stubborn.learning_rate: set to 0.05, its optimizer has 0.1"),
        (Manual, "optimizes manually"),
        (Rateless, "Rateless has no learning_rate that could be set"),
    ],
)
def test_a_module_that_cannot_follow_a_rate_is_refused_in_words(
    tmp_path: Path, job_input: JobInput, module: Callable[[], nn.Module], said: str
) -> None:
    with pytest.raises(JobError, match=said.replace(".", r"\.")) as caught:
        fit(job_input, tmp_path, module())
    assert caught.value.kind == "user-code"


def test_a_network_with_its_own_loss_trains_without_accuracy(tmp_path: Path, job_input: JobInput) -> None:
    workload = replace(job_input.workload, optimizer="sgd", schedule="onecycle")
    epochs = fit(replace(job_input, workload=workload), tmp_path, WithLoss()).epochs
    assert epochs[1].train_loss < epochs[0].train_loss
    assert epochs[1].val_loss is not None
    assert epochs[1].val_accuracy is None


def test_a_network_without_loss_or_classes_is_told_what_it_lacks(tmp_path: Path, job_input: JobInput) -> None:
    workload = replace(job_input.workload, optimizer="sgd", schedule="onecycle")
    with pytest.raises(JobError, match=r"Linear gives a tensor \[8, 1\] of float32 for a tensor \[8, 1\]") as caught:
        fit(replace(job_input, workload=workload), tmp_path, nn.Linear(3, 1))
    assert "loss(outputs, targets)" in caught.value.fix


@pytest.mark.parametrize("optimizer", ["own", "sgd"])
def test_a_module_of_ones_own_is_range_tested(job_input: JobInput, optimizer: Any) -> None:  # noqa: ANN401 - a literal
    sweep = SweepSpec(1, 40, 1e-5, 10.0, 200, 8, LrTarget("normalised", "sqrt", 8, 200))
    workload = replace(job_input.workload, optimizer=optimizer, schedule="onecycle")
    job = replace(job_input, workload=workload, train=None, sweep=sweep)
    data: Any = DataSets(Line(400), Line(20))  # type: ignore[arg-type] # as above
    result = lr_find.range_test(job, "0" * 64, Regression, data, torch.device("cpu"), lambda _progress: None)
    assert result.optimizer == ("adamw" if optimizer == "own" else "sgd")
    assert result.noise_scale is not None
    assert result.curves[0].losses[-1] != result.curves[0].losses[0]
    assert result.chance_loss is None


class TimeFirst(Regression):
    """Takes batches whose first dimension is no sample's."""

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, targets = batch
        return super().training_step((inputs.T, targets), index)


def test_batches_that_are_not_sample_first_are_counted_by_the_samples_drawn(
    tmp_path: Path, job_input: JobInput
) -> None:
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*samples, strict=True)
        return torch.stack(inputs, dim=1), torch.stack(targets)

    data: Any = DataSets(Line(SAMPLES), Line(20), collate)  # type: ignore[arg-type] # targets are numbers, not classes
    torch.manual_seed(3)
    found = train.fit(job_input, "0" * 64, TimeFirst(), data, tmp_path / "time", ALONE)
    torch.manual_seed(3)
    wanted = fit(job_input, tmp_path / "sample", Regression())
    assert [epoch.train_loss for epoch in found.epochs] == pytest.approx([epoch.train_loss for epoch in wanted.epochs])


@pytest.mark.parametrize(
    ("network", "batch", "known"),
    [
        (nn.Linear(2, 3), (torch.zeros(2, 2), torch.tensor([0, 2])), True),
        (nn.Linear(2, 3), [torch.zeros(2, 2), torch.tensor([0, -100])], True),
        (nn.Linear(2, 3), (torch.zeros(2, 2), torch.zeros(2)), False),
        (nn.Linear(2, 3), (torch.zeros(2, 2), torch.zeros(2, 4, dtype=torch.long)), False),
        (nn.Linear(2, 3), {"images": torch.zeros(2, 2)}, False),
        (WithLoss(), (torch.zeros(2, 3), torch.tensor([0, 2])), False),
        (Regression(), (torch.zeros(2, 3), torch.tensor([0, 2])), False),
    ],
)
def test_chance_is_known_of_gpuplans_own_cross_entropy_alone(network: nn.Module, batch: object, *, known: bool) -> None:
    assert (network_loss.class_targets(network, batch) is not None) is known
