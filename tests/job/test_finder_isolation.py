"""Looking for a learning rate leaves no trace: whatever is trained, by whichever optimizer, and however it ends."""

from __future__ import annotations

import copy
import pickle
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gpuplan_job.finder import find_lr

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES, FEATURES, CLASSES = 96, 6, 3


class Tied(nn.Module):
    """Two layers share one weight; a buffer is not saved, an attribute counts."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.out = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0
        self.losses: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + 1  # a new tensor, as a careless author makes it
        self.losses.append(inputs.mean())
        output: Tensor = self.out(self.second(self.first(inputs).relu()))
        return output


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, CLASSES))


def frozen() -> nn.Module:
    module = normed()
    for parameter in module[0].parameters():  # type: ignore[index] # nn.Sequential, declared as the module it is
        parameter.requires_grad_(requires_grad=False)
    module[1].eval()  # type: ignore[index] # as above
    return module


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=torch.tensor(0.01), amsgrad=True)


def adamw_in_two_groups(module: nn.Module) -> torch.optim.Optimizer:
    first, *rest = module.parameters()
    groups: list[dict[str, Any]] = [{"params": [first], "lr": 1e-4}, {"params": rest}]
    return torch.optim.AdamW(groups, lr=1e-2)


MODULES = [normed, dropping, frozen, Tied]
OPTIMIZERS = [sgd, adam, adamw_in_two_groups]


def loader(seed: int = 0) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(7)
    targets = torch.arange(SAMPLES) % CLASSES
    data = TensorDataset(torch.randn(SAMPLES, FEATURES, generator=generator) + targets[:, None], targets)
    return DataLoader(data, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(seed))


def train(module: nn.Module, optimizer: torch.optim.Optimizer, data: DataLoader[tuple[Tensor, ...]]) -> list[float]:
    losses = []
    for inputs, targets in data:
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        optimizer.step()
        losses.append(loss.item())
    return losses


def everything(module: nn.Module, optimizer: torch.optim.Optimizer, data: DataLoader[Any]) -> bytes:
    """Return all state as bytes; equal bytes are equal bits."""
    parameters = list(module.parameters())
    index = {id(parameter): number for number, parameter in enumerate(parameters)}
    own = [vars(part) for part in module.modules()]
    state: list[object] = [
        [(bits(p), bits(p.grad), p.requires_grad) for p in parameters],
        [(name, bits(buffer)) for name, buffer in module.named_buffers()],
        [part.training for part in module.modules()],
        [(values.get("calls"), [bits(loss) for loss in values.get("losses", ())]) for values in own],
        [{key: bits(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups],
        [(index[id(p)], {key: bits(v) for key, v in values.items()}) for p, values in optimizer.state.items()],
        random.getstate(),
        [bits(part) for part in np.random.get_state()],  # noqa: NPY002 - the one that augmentations draw from
        bits(torch.get_rng_state()),
        bits(data.generator.get_state()),
    ]
    return pickle.dumps(state)


def bits(value: object) -> object:
    if isinstance(value, Tensor):
        return value.numpy(force=True).tobytes()
    return value.tobytes() if isinstance(value, np.ndarray) else value


def search(module: nn.Module, optimizer: torch.optim.Optimizer, data: DataLoader[Any], **more: Any) -> None:  # noqa: ANN401 - passed on
    options = {"loss": functional.cross_entropy, "steps": 50, "runs": 2, "iterations": 5, "gpus": 2, "accumulate": 2}
    find_lr(module, data, optimizer=optimizer, **(options | more))  # type: ignore[arg-type] # passed on by name


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make_module", MODULES)
def test_everything_is_bit_for_bit_as_before_and_the_training_goes_on_as_if_nothing_had_been(
    make_module: Callable[[], nn.Module], make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    trained = []
    for searched in (False, True):
        torch.manual_seed(3)
        module = make_module()
        optimizer, data = make_optimizer(module), loader()
        train(module, optimizer, data)
        if searched:
            objects = (
                [id(p) for p in module.parameters()],
                [id(v) for s in optimizer.state.values() for v in s.values()],
            )
            before = everything(module, optimizer, data)
            search(module, optimizer, data)
            assert everything(module, optimizer, data) == before
            after = [id(p) for p in module.parameters()], [id(v) for s in optimizer.state.values() for v in s.values()]
            assert after == objects
        trained.append(train(module, optimizer, data))
    assert trained[0] == trained[1]


@pytest.mark.parametrize("make_module", MODULES)
@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt])
def test_an_end_in_the_middle_leaves_nothing_either(
    make_module: Callable[[], nn.Module], ending: type[BaseException]
) -> None:
    module = make_module()
    optimizer, data = adamw_in_two_groups(module), loader()
    train(module, optimizer, data)
    before = everything(module, optimizer, data)
    calls = iter(range(10**6))

    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == 7:
            raise ending
        return functional.cross_entropy(outputs, targets)

    with pytest.raises(ending):
        search(module, optimizer, data, loss=failing)
    assert everything(module, optimizer, data) == before


class Logged(pl.LightningModule):
    """Logs, keeps outputs, asks its trainer for the training's length."""

    def __init__(self) -> None:
        super().__init__()
        self.learning_rate = 1e-2
        self.inner = Tied()
        self.outputs: list[Tensor] = []
        self.asked: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        inputs, targets = batch
        loss = functional.cross_entropy(self.inner(inputs), targets)
        self.log("train_loss", loss, on_step=True, prog_bar=True)
        self.outputs.append(loss.detach())
        return {"loss": loss, "index": torch.tensor(batch_idx)}

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning takes many forms
        self.asked.append(float(self.trainer.estimated_stepping_batches))
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=50)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_a_lightning_module_is_left_without_trainer_log_or_outputs_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = Logged()
    before = copy.deepcopy(module.state_dict())
    rng = torch.get_rng_state()
    find_lr(module, loader(), steps=50, runs=1, iterations=4)
    assert module._trainer is None
    assert not {"log", "log_dict"} & vars(module).keys()
    assert (module.outputs, module.asked, module.inner.calls) == ([], [], 0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_on_the_optimizer_neither_moves_nor_is_moved() -> None:
    module = normed()
    optimizer = sgd(module)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=100)
    before = copy.deepcopy(schedule.state_dict()), copy.deepcopy(optimizer.param_groups[0]["lr"])
    search(module, optimizer, loader())
    assert (schedule.state_dict(), optimizer.param_groups[0]["lr"]) == before


def test_a_loader_with_persistent_workers_keeps_none_of_ours() -> None:
    data = loader()
    kept = DataLoader(data.dataset, batch_size=8, num_workers=1, persistent_workers=True)
    module = normed()
    search(module, sgd(module), kept, runs=1, gpus=1)
    assert vars(kept).get("_iterator") is None
