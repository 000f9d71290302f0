"""`find_lr`: what it finds, what it takes, and what it refuses in words."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gpuplan_job.contract import LrResult
from gpuplan_job.decision import decide
from gpuplan_job.finder import FindLearningRate, FindLrError, FoundLr, NoLearningRateError, find_lr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FEATURES, CLASSES, SAMPLES = 8, 4, 640


def data(shuffled_labels: bool = False, **how: Any) -> DataLoader[tuple[Tensor, ...]]:  # noqa: ANN401, FBT001, FBT002 - a test's own
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SAMPLES) % CLASSES
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    inputs = centres[targets] + torch.randn(SAMPLES, FEATURES, generator=generator)
    if shuffled_labels:
        targets = targets[torch.randperm(SAMPLES, generator=generator)]
    return DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True, **how)


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def sgd(module: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)


def find(module: nn.Module | None = None, loader: object = None, **how: Any) -> FoundLr:  # noqa: ANN401 - passed on
    module = mlp() if module is None else module
    if "optimizer" not in how:
        how["optimizer"] = sgd(module)
    how = dict[str, Any](loss=functional.cross_entropy, max_epochs=4, iterations=60, runs=2) | how
    return find_lr(module, data() if loader is None else loader, **how)


class Lit(pl.LightningModule):
    """An MLP that trains itself at `learning_rate`, its first layer at a tenth of it."""

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.net = mlp()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning takes many forms
        first, *rest = self.parameters()
        groups: list[dict[str, Any]] = [{"params": [first], "lr": self.learning_rate / 10}, {"params": rest}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.fixture(scope="module")
def found() -> FoundLr:
    return find(gpus=4)


def test_a_module_that_learns_gets_a_learning_rate_with_its_evidence(found: FoundLr) -> None:
    assert 0.01 < found.learning_rate < 1
    assert found.ok
    assert found.result.sweep.reference_steps == 160
    assert (found.result.batch.global_batch, found.result.sweep.target.global_batch) == (16, 64)
    assert found.result.sweep.target.steps == 40
    assert found.result.noise_scale is not None
    assert found.result.noise_scale.micro_batches == 16
    assert found.training_learning_rate == pytest.approx(
        found.learning_rate * (found.decision.multiplier or 0), rel=1e-3
    )


def test_the_result_is_read_again_and_decided_to_the_same_bits(found: FoundLr) -> None:
    again = LrResult.from_json(found.result.to_json())
    assert decide(again) == again.decision == found.decision


def test_it_says_what_it_found_and_draws_it(found: FoundLr, tmp_path: Path) -> None:
    assert f"learning rate {found.learning_rate:.3g} at batch 16" in str(found)
    assert f"at batch 64: {found.training_learning_rate:.3g}" in str(found)
    pytest.importorskip("matplotlib")
    assert found.plot(tmp_path / "curve.svg").read_text() == found._repr_svg_()
    assert found.plot(tmp_path / "curve.png").read_bytes() == found._repr_png_()
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        found.plot(tmp_path / "curve.pdf")


def test_the_same_seed_finds_the_same_and_another_seed_another_order() -> None:
    one, same, other = (find(runs=1, iterations=5, seed=seed).result.curves[0].losses for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_a_list_of_batches_is_shuffled_by_seed() -> None:
    batches = list(data())
    one, same, other = (find(loader=batches, runs=1, iterations=5, seed=s).result.curves[0].losses for s in (0, 0, 1))
    assert one == same
    assert one != other


def test_every_sweep_starts_from_the_weights_that_came() -> None:
    curves = find(iterations=5, runs=3, loader=[next(iter(data()))]).result.curves
    assert len({curve.losses[0] for curve in curves}) == 1


def test_a_curve_that_falls_nowhere_is_a_value_whose_learning_rate_cannot_be_taken() -> None:
    nothing = find(loader=data(shuffled_labels=True), iterations=30, runs=1, lr_max=1e-4)
    assert nothing.decision.verdict == "flat"
    assert "no learning rate (flat)" in str(nothing)
    assert "next: " in str(nothing)
    for name in ("learning_rate", "training_learning_rate", "group_learning_rates"):
        with pytest.raises(NoLearningRateError, match="flat"):
            getattr(nothing, name)


def test_the_learning_rate_moves_once_per_optimizer_step() -> None:
    calls: list[int] = []

    def counted(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        return functional.cross_entropy(outputs, targets)

    result = find(loss=counted, accumulate=3, iterations=10, runs=1, lr_max=1e-2).result
    assert (len(result.curves[0].losses), len(calls)) == (10, 30)
    assert result.batch.global_batch == 48


def test_accumulating_equal_batches_gives_the_curve_of_the_large_batch() -> None:
    small = list(data())[:2]
    large = [tuple(torch.cat(parts) for parts in zip(*small, strict=True))]
    how: dict[str, Any] = {"steps": 100, "iterations": 20, "runs": 1, "lr_max": 1e-2}
    assert find(loader=small, accumulate=2, **how).result.curves[0].losses == pytest.approx(
        find(loader=large, **how).result.curves[0].losses, rel=1e-5
    )


def test_a_lightning_module_brings_step_optimizer_and_group_ratios() -> None:
    found = find_lr(Lit(), data(), max_epochs=4, iterations=60, runs=1)
    assert found.group_shares == pytest.approx((0.1, 1.0))
    assert found.group_learning_rates == pytest.approx((found.learning_rate / 10, found.learning_rate))
    assert found.result.workload.optimizer == "adamw"
    assert "parameter groups" in str(found)


def test_a_data_module_is_set_up_and_its_hooks_are_called() -> None:
    class Doubled(pl.LightningDataModule):
        def setup(self, stage: str) -> None:
            self.stage = stage

        def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
            return data()

        def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
            del dataloader_idx
            seen.append(len(batch[0]))
            return batch

    seen: list[int] = []
    module = Doubled()
    find_lr(Lit(), module, max_epochs=2, iterations=4, runs=1)
    assert module.stage == "fit"
    assert seen == [16] * 4


def test_any_batch_will_do_with_a_step() -> None:
    batches = [{"x": x, "y": y} for x, y in data()]

    def step(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(module(batch["x"]), batch["y"])

    assert find(loader=batches, loss=None, step=step, runs=1, iterations=5).result.batch.per_gpu == 16


def test_frozen_parts_of_a_module_in_training_mode_stay_frozen_and_one_in_eval_mode_is_trained() -> None:
    modes: list[list[bool]] = []

    def step(module: nn.Module, batch: list[Tensor]) -> Tensor:
        modes.append([part.training for part in module.modules()])
        return functional.cross_entropy(module(batch[0]), batch[1])

    module = mlp()
    module[0].eval()  # type: ignore[index] # nn.Sequential, declared as the module it is
    find(module, loss=None, step=step, runs=1, iterations=2)
    module.eval()
    find(module, loss=None, step=step, runs=1, iterations=2)
    assert modes == [[True, False, True, True]] * 2 + [[True] * 4] * 2
    assert not module.training


def test_the_noise_scale_can_be_measured_after_a_burn_in() -> None:
    at_once, later = (find(gpus=2, noise_burn_in=steps).result for steps in (0, 20))
    assert at_once.curves == later.curves
    assert at_once.noise_scale is not None
    assert later.noise_scale is not None
    # On separable classes the gradient's signal fades as they are learnt.
    assert (later.noise_scale.samples or 1e9) > (at_once.noise_scale.samples or 0)


def test_the_policy_accumulate_makes_its_own_sweeps_at_the_global_batch() -> None:
    found = find(gpus=2, transfer="accumulate")
    assert found.result.check is not None
    assert found.result.check.at.batch.global_batch == 32
    assert found.decision.checked_learning_rate == found.training_learning_rate


def test_gradients_are_clipped_as_asked() -> None:
    free = find(iterations=40, runs=1, lr_min=1e-2).result.curves[0]
    clipped = find(iterations=40, runs=1, lr_min=1e-2, clip=1e-3).result.curves[0]
    assert clipped.stop_reason == "completed"
    assert clipped.losses[0] == free.losses[0]
    assert max(clipped.losses) < max(free.losses)


def test_half_precision_runs() -> None:
    assert find(precision="bf16-mixed", iterations=4, runs=1).result.precision == "bf16-mixed"


def test_the_length_of_the_training_comes_from_its_trainer() -> None:
    trainer = pl.Trainer(
        max_epochs=3, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    found = find_lr(Lit(), data(), trainer=trainer, iterations=4, runs=1)
    assert found.result.sweep.reference_steps == 60
    assert found.result.batch.accumulation == 2


class Several(Lit):
    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning takes many forms
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.1)]


class Manual(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def once() -> Iterator[object]:
    yield from data()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: find_lr(Several(), data(), steps=9), "2 optimizers"),
        (lambda: find_lr(Manual(), data(), steps=9), "manually"),
        (lambda: find(optimizer=torch.optim.LBFGS(mlp().parameters())), "many times a step"),
        (lambda: find(optimizer=None), "needs an optimizer"),
        (lambda: find(loss=None), "needs a loss"),
        (lambda: find(max_epochs=None), "how long the training is"),
        (lambda: find(loader=once()), "only once"),
        (lambda: find(loader=[data(), data()]), "several training loaders"),
        (lambda: find(loader=[]), "empty"),
        (lambda: find(loader=[("a", "b")]), "batch_size="),
        (lambda: find(optimizer=sgd(mlp(), lr=0.0)), "all 0"),
        (lambda: find(precision="64-true"), "bf16-mixed"),
        (lambda: find(lr_min=1.0, lr_max=0.1), "rising range"),
        (lambda: find(nn.ReLU(), optimizer=sgd(mlp())), "no parameters"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_what_to_do(call: Any, words: str) -> None:  # noqa: ANN401 - a lambda
    with pytest.raises(FindLrError, match=words):
        call()


def test_defaults_are_those_of_a_plan() -> None:
    from gpuplan.workload.schema import Lr

    given = inspect.signature(find_lr).parameters
    assert (given["rule"].default, given["runs"].default) == (Lr().rule, Lr().runs)


def trainer(callback: FindLearningRate, **how: Any) -> pl.Trainer:  # noqa: ANN401 - passed on
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", devices=1, callbacks=[callback], **(quiet | {"max_epochs": 1} | how))


def test_the_callback_trains_with_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module, callback = Lit(), FindLearningRate(runs=1, iterations=60)
    fit = trainer(callback, max_epochs=2)
    fit.fit(module, data())
    assert callback.found is not None
    rate = callback.found.learning_rate
    assert callback.found.result.sweep.reference_steps == 80
    assert module.learning_rate == module.hparams["learning_rate"] == rate
    assert [group["initial_lr"] for group in fit.optimizers[0].param_groups] == pytest.approx([rate / 10, rate])
    assert fit.global_step == 80
    assert list(tmp_path.iterdir()) == []


def test_the_callback_sets_the_optimizer_of_a_module_that_states_no_learning_rate() -> None:
    class Silent(Lit):
        def __init__(self) -> None:
            super().__init__()
            del self.learning_rate
            self.hparams.clear()

        def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning takes many forms
            optimizer = torch.optim.SGD(self.parameters(), lr=0.123, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)]

    callback = FindLearningRate(runs=1, iterations=60)
    fit = trainer(callback)
    fit.fit(Silent(), data())
    assert callback.found is not None
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(callback.found.learning_rate)


def test_a_fit_without_a_learning_rate_ends_there_unless_it_may_keep_its_own() -> None:
    how: dict[str, Any] = {"runs": 1, "iterations": 10}
    with pytest.raises(NoLearningRateError, match="next: "):
        trainer(FindLearningRate(**how)).fit(Lit(), data())
    module = Lit()
    trainer(FindLearningRate(keep_going=True, **how)).fit(module, data())
    assert module.learning_rate == 1e-3


def test_a_fit_that_resumes_does_not_search_again(tmp_path: Path) -> None:
    first = FindLearningRate(runs=1, iterations=60)
    fit = trainer(first)
    fit.fit(Lit(), data())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    second = FindLearningRate(runs=1, iterations=60)
    again = trainer(second, max_epochs=2)
    again.fit(Lit(), data(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert first.found is not None
    assert second.found is None
    assert again.optimizers[0].param_groups[1]["initial_lr"] == pytest.approx(first.found.learning_rate)
