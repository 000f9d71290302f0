"""What three public finders suggest from given losses: their own code, fed with a loss for each step it would train.

Called by `lr_bad_curves.py`. A finder that is not installed is left out, with its name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import os
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Finder = Callable[[list[float], list[float]], float | None]


class _EndOfLosses(Exception):  # noqa: N818 - it ends a finder's loop, it is no error
    """The sweep was cut short."""


def finders() -> tuple[dict[str, Finder], list[str]]:
    """Return the finders that are installed, and the names of those that are not.

    A finder takes the learning rates of a whole sweep and the losses of as many of its steps as were done; it returns
    its suggestion, None where it gives none, be it by an exception or by a value that is not a positive number.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    known: dict[str, tuple[str, Finder]] = {
        "torch-lr-finder": ("torch_lr_finder", _torch_lr_finder),
        "Lightning": ("pytorch_lightning", _lightning),
        "fastai valley": ("fastai", _fastai),
    }
    found = {
        label: _guarded(finder)
        for label, (module, finder) in known.items()
        if importlib.util.find_spec(module) is not None
    }
    return found, [label for label in known if label not in found]


def _guarded(finder: Finder) -> Finder:
    def suggest(rates: list[float], losses: list[float]) -> float | None:
        logging.getLogger("pytorch_lightning").setLevel(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
                suggested = finder(rates, losses)
        except Exception:  # noqa: BLE001 - whatever a finder fails with, its user gets no learning rate
            return None
        return suggested if suggested is not None and 0 < suggested < math.inf else None

    return suggest


class _NoAxes:
    """Takes the drawing of `LRFinder.plot`, which is where the suggestion comes from."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_arguments, **_options: None


def _torch_lr_finder(rates: list[float], losses: list[float]) -> float | None:
    """Run `LRFinder.range_test` with `_train_batch` in place of the training, then ask its plot."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from torch_lr_finder import LRFinder

    network = torch.nn.Linear(1, 1)
    finder = LRFinder(network, torch.optim.SGD(network.parameters(), lr=rates[0]), None)
    given = iter(losses)

    def train_batch(*_arguments: object, **_options: object) -> float:
        try:
            return next(given)
        except StopIteration:
            raise _EndOfLosses from None

    finder._train_batch = train_batch  # noqa: SLF001 - the one place where it trains
    with contextlib.suppress(_EndOfLosses):
        finder.range_test(DataLoader(TensorDataset(torch.zeros(1))), end_lr=rates[-1], num_iter=len(rates))
    _, suggested = finder.plot(ax=_NoAxes())
    return float(suggested)


def _lightning(rates: list[float], losses: list[float]) -> float | None:
    """Drive the callback of `Tuner.lr_find`, which smooths and stops, then ask `_LRFinder.suggestion`."""
    import torch
    from pytorch_lightning.tuner.lr_finder import _LRCallback, _LRFinder

    scheduler = SimpleNamespace(lr=[rates[0]])
    nothing: Any = None
    trainer: Any = SimpleNamespace(
        fit_loop=SimpleNamespace(batch_idx=0),
        accumulate_grad_batches=1,
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)],
        global_step=0,
        should_stop=False,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    callback = _LRCallback(len(rates))
    for step, (rate, loss) in enumerate(zip(rates, losses, strict=False), 1):
        scheduler.lr = [rate]
        callback.on_train_batch_start(trainer, nothing, None, step - 1)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, nothing, {"loss": torch.tensor(loss)}, None, step - 1)
        if trainer.should_stop:
            break
    finder = _LRFinder("exponential", rates[0], rates[-1], len(rates))
    finder.results = {"lr": callback.lrs, "loss": callback.losses}
    suggested: float | None = finder.suggestion()
    return suggested


def _fastai(rates: list[float], losses: list[float]) -> float | None:
    """Do as `Learner.lr_find`: its smoothing, its stop at four times the best, its cut, its `valley`."""
    from fastai.callback.schedule import valley
    from torch import tensor

    kept = list(_fastai_losses(losses))
    first = len(rates) // 10
    lrs, smooth = tensor(rates[: len(kept)][first:-5]), tensor(kept[first:-5])
    nans = smooth.isnan().nonzero()
    if len(nans) > 0:
        lrs, smooth = lrs[: nans[0]], smooth[: nans[0]]
    # As lists: the same comparisons, and its loop over pairs is slow on tensors.
    suggested, _ = valley(lrs.tolist(), smooth.tolist(), len(rates))
    return float(suggested)


def _fastai_losses(losses: list[float]) -> Iterator[float]:
    from fastai.learner import AvgSmoothLoss
    from torch import tensor

    average, best = AvgSmoothLoss(), math.inf
    for loss in losses:
        average.accumulate(SimpleNamespace(loss=tensor(loss)))
        value = float(average.value)
        yield value
        best = min(best, value) if not math.isnan(value) else best
        if value > 4 * best:
            return
