"""The optimizer that a LightningModule configures, and whether its learning rate is the one that gpuplan will set.

Used by `steps`. It constructs optimizers and takes no step with one that stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan_job import user_code
from gpuplan_job.code_check import OptimizerKind, OwnOptimizer
from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.learner import Lightning, usable
from gpuplan_job.lightning_methods import writer
from gpuplan_job.own_optimizer import no_rate, rate_at, unused_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from gpuplan_job.failures import JobError

_FACTOR = 3.0
"""By how much the stated rate is changed, lest the optimizer's own happens to equal it."""
_STEPS = 1000
_KINDS: dict[str, OptimizerKind] = {
    "SGD": "sgd",
    "Adam": "adam",
    "AdamW": "adamw",
    "RMSprop": "rmsprop",
    "Adagrad": "adagrad",
    "Lamb": "lamb",
}


def look(network: nn.Module) -> tuple[OwnOptimizer | None, str]:
    """Return what a LightningModule configures, and why it cannot be used, an empty text if it can.

    None where it configures nothing: gpuplan's own optimizer trains it.

    Raises:
        JobError: configure_optimizers fails.
    """
    learner = Lightning(network)
    if writer(network, "configure_optimizers") is None:
        return None, ""
    stated = learner.stated_rate()
    try:
        with learner.attached(_STEPS):
            optimizer = usable(learner.optimizer())
            refusal = _refusal(learner, stated[2]) if stated else no_rate(learner)
    except FindLrError as error:
        return None, f"{error.problem}; {error.fix}"
    except user_code.FAILURES as error:
        raise user_code.failed("configure_optimizers failed", error) from error
    group = optimizer.param_groups[0]
    found = OwnOptimizer(
        name=type(optimizer).__name__,
        kind=_KINDS.get(type(optimizer).__name__, "other"),
        momentum=_number(group, "momentum"),
        weight_decay=_number(group, "weight_decay"),
        rate_at=rate_at(learner),
        follows=refusal is None,
    )
    return found, f"{refusal.message}; {refusal.fix}" if refusal else ""


def _refusal(learner: Lightning, rate: float) -> JobError | None:
    """Return what a job would say of the optimizer at another rate than the stated one, None if it would take it."""
    learner.state_rate(rate * _FACTOR)
    try:
        return unused_rate(learner, usable(learner.optimizer()), rate * _FACTOR)
    finally:
        learner.state_rate(rate)


def _number(group: Mapping[str, Any], name: str) -> float:
    value = group.get(name, 0.0)
    return float(value) if isinstance(value, float | int) else 0.0
