"""The optimizer that a user's LightningModule configures, at a learning rate that it is given.

Called by `lightning_subject` and `learner`. It knows Lightning by its method names and does not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan_job.failures import JobError
from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.learner import Lightning, peak_rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

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
    name = type(own.module).__name__
    if not own.state_rate(learning_rate):
        raise JobError(
            "user-code",
            f"{name} has no learning_rate that could be set",
            "keep it as self.learning_rate (or self.lr, or by save_hyperparameters) for configure_optimizers to use",
        )
    result = configure()
    rates = peak_rates(own.only(result))
    if not any(abs(rate - learning_rate) <= _SAME * learning_rate for rate in rates):
        shown = ", ".join(f"{rate:g}" for rate in rates)
        raise JobError(
            "user-code",
            f"{name}.configure_optimizers does not use {name}.learning_rate: set to {learning_rate:g}, its optimizer "
            f"has {shown}",
            "build the optimizer with lr=self.learning_rate",
        )
    return result
