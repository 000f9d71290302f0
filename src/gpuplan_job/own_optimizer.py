"""The optimizer that a user's LightningModule configures, at a learning rate that it is given.

Called by `lightning_subject`, `learner` and `check`. It knows Lightning by its method names and does not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan_job.failures import JobError
from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.learner import Lightning, peak_rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

_SAME = 1e-6
"""Relative difference of learning rates that counts as none."""


def own_module(network: nn.Module) -> Lightning:
    """Return a LightningModule as what its steps and its optimizer are asked of.

    Raises:
        JobError: it optimizes manually.
    """
    try:
        return Lightning(network)
    except FindLrError as error:
        raise JobError(
            "user-code", f"{type(network).__name__}: {error}", "train with automatic optimization"
        ) from error


def configure_own(own: Lightning, configure: Callable[[], Any], learning_rate: float) -> Any:  # noqa: ANN401 - Lightning's
    """Return what a module's own `configure_optimizers` gives at a learning rate.

    Raises:
        JobError: the module states no learning rate, or does not use the one it states.
    """
    if not own.state_rate(learning_rate):
        raise no_rate(own)
    result = configure()
    unused = unused_rate(own, own.only(result), learning_rate)
    if unused:
        raise unused
    return result


def no_rate(own: Lightning) -> JobError:
    """Return the refusal of a module that states no learning rate."""
    return JobError(
        "user-code",
        f"{type(own.module).__name__} has no learning_rate that could be set",
        "keep it as self.learning_rate (or self.lr, or by save_hyperparameters) for configure_optimizers to use",
    )


def unused_rate(own: Lightning, optimizer: Optimizer, learning_rate: float) -> JobError | None:
    """Return the refusal of an optimizer that was configured at `learning_rate`, and none of whose groups is at it.

    A multiple of it will not do: what was found is the rate of the optimizer, and is shown as such.
    """
    rates = peak_rates(optimizer)
    if any(abs(rate - learning_rate) <= _SAME * learning_rate for rate in rates):
        return None
    name, place = type(own.module).__name__, rate_at(own)
    shown = ", ".join(f"{rate:g}" for rate in rates)
    return JobError(
        "user-code",
        f"{name}.configure_optimizers does not use {name}.{place}: set to {learning_rate:g}, its optimizer has {shown}",
        f"build the optimizer with lr=self.{place}",
    )


def rate_at(own: Lightning) -> str:
    """Return where a module states its learning rate: `learning_rate`, `hparams.lr`; empty: nowhere that we look."""
    stated = own.stated_rate()
    if stated is None:
        return ""
    holder, name, _ = stated
    return name if holder is own.module else f"hparams.{name}"
