"""The learning-rate finders of other packages, run on the tasks of `lr_regret.py` as their documentation says.

Each gets the task's network, loss, optimizer, batch and data, fresh from a seed, and its own defaults for range, length
and suggestion. One that is not installed is listed as such.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gpuplan_job import optim, runtime
from lr.tasks import BATCH, arrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from lr.tasks import Task

    Loader = DataLoader[tuple[Tensor, ...]]

_LOWEST = 1e-7
"""Where torch-lr-finder's and fastai's documentation start a range test."""


def torch_lr_finder(task: Task, seed: int) -> float | None:
    """Run torch-lr-finder over 100 iterations up to LR 10 and return the steepest point that its plot suggests."""
    from torch_lr_finder import LRFinder

    network, loader = _fresh(task, seed)
    optimizer = optim.build(task.workload(seed), network, _LOWEST)
    finder = LRFinder(network, optimizer, nn.CrossEntropyLoss(), device="cpu")
    with _quiet():
        finder.range_test(loader, end_lr=10, num_iter=100)
        found = finder.plot(suggest_lr=True, ax=_axes())
    return float(found[1]) if isinstance(found, tuple) else None


def lightning(task: Task, seed: int) -> float | None:
    """Run Lightning's Tuner.lr_find with its defaults (1e-8 to 1, 100 steps) and return its suggestion."""
    import pytorch_lightning as pl
    from pytorch_lightning.tuner.tuning import Tuner

    network, loader = _fresh(task, seed)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.learning_rate = 1e-3

        def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optim.build(task.workload(seed), self, self.learning_rate)

    with TemporaryDirectory() as folder, _quiet():
        trainer = pl.Trainer(
            max_epochs=100,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        found = Tuner(trainer).lr_find(Module(), train_dataloaders=loader)
        picked = found.suggestion() if found else None
    return None if picked is None else float(picked)


def fastai(task: Task, seed: int, method: str = "valley") -> float | None:
    """Run fastai's Learner.lr_find with its defaults (1e-7 to 10, 100 steps) and return the suggestion of a method."""
    from fastai.callback import schedule
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    network, loader = _fresh(task, seed)
    workload = task.workload(seed)
    options: dict[str, Any] = {"weight_decay": workload.weight_decay}
    if workload.optimizer == "sgd":
        options |= {"opt": torch.optim.SGD, "momentum": workload.momentum}
    else:
        options |= {"opt": torch.optim.AdamW}
    with TemporaryDirectory() as folder, _quiet():
        learner = Learner(
            DataLoaders(loader, loader),
            network,
            loss_func=nn.CrossEntropyLoss(),
            opt_func=partial(OptimWrapper, **options),
            path=folder,
        )
        found = learner.lr_find(show_plot=False, suggest_funcs=(getattr(schedule, method),))
    return float(found[0])


PEERS: dict[str, tuple[str, Callable[[Task, int], float | None]]] = {
    "torch-lr-finder steepest": ("torch-lr-finder", torch_lr_finder),
    "Lightning Tuner": ("pytorch-lightning", lightning),
    "fastai valley (its default)": ("fastai", fastai),
    "fastai minimum / 10": ("fastai", partial(fastai, method="minimum")),
}


def installed() -> dict[str, str | None]:
    """Return the version of each peer's package, None where it is not installed."""
    found: dict[str, str | None] = {}
    for package, _ in PEERS.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def usable(learning_rate: float | None) -> bool:
    """Tell whether a peer gave a number to train with."""
    return learning_rate is not None and math.isfinite(learning_rate) and learning_rate > 0


def _fresh(task: Task, seed: int) -> tuple[nn.Module, Loader]:
    runtime.seed_everything(seed)
    held = arrays(task.data)
    network = task.build()
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(held.train_images, held.train_labels)
    return network, DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True, generator=generator)


def _axes() -> Any:  # noqa: ANN401 - matplotlib is a peer's dependency and has no stubs here
    from matplotlib.figure import Figure

    return Figure().subplots()


@contextlib.contextmanager
def _quiet() -> Any:  # noqa: ANN401 - a generator for contextlib
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
