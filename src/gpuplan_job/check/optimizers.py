"""The optimizer that a LightningModule configures, and whether its learning rate is the one that gpuplan will set.

Used by `steps`. It constructs optimizers and takes no step with one that stays.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from gpuplan_job import user_code
from gpuplan_job.code_check import OptimizerKind, OwnOptimizer
from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.learner import Lightning, peak_rates, usable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer

_FACTOR = 3.0
"""By how much the stated rate is changed to see what follows it."""
_TOLERANCE = 1e-6
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
    if "configure_optimizers" not in _written(network):
        return None, ""
    stated = learner.stated_rate()
    try:
        with learner.attached(_STEPS):
            before = usable(learner.optimizer())
            follows = stated is not None and _follows(learner, stated[2], before)
    except FindLrError as error:
        return None, f"{error.problem}; {error.fix}"
    except Exception as error:
        raise user_code.failed("configure_optimizers failed", error) from error
    group = before.param_groups[0]
    found = OwnOptimizer(
        name=type(before).__name__,
        kind=_KINDS.get(type(before).__name__, "other"),
        momentum=_number(group, "momentum"),
        weight_decay=_number(group, "weight_decay"),
        learning_rate=max(peak_rates(before)),
        rate_at=_place(learner, stated),
        follows=follows,
    )
    return found, _problem(found)


def _follows(learner: Lightning, rate: float, before: Optimizer) -> bool:
    """Return whether a changed rate reaches the optimizer."""
    learner.state_rate(rate * _FACTOR)
    try:
        after = learner.optimizer()
    finally:
        learner.state_rate(rate)
    pairs = list(zip(peak_rates(before), peak_rates(after), strict=True))
    return any(math.isclose(new, old * _FACTOR, rel_tol=_TOLERANCE) and old > 0 for old, new in pairs)


def _problem(found: OwnOptimizer) -> str:
    if not found.rate_at:
        return (
            "it states no learning rate that gpuplan could set; give it self.learning_rate (or self.lr), and let "
            "configure_optimizers use it"
        )
    if not found.follows:
        return (
            f"its {found.name} does not follow {found.rate_at}: with another value there its learning rate stayed "
            f"{found.learning_rate:g}; use lr=self.{found.rate_at} in configure_optimizers"
        )
    return ""


def _place(learner: Lightning, stated: tuple[Any, str, float] | None) -> str:
    if stated is None:
        return ""
    holder, name, _ = stated
    return name if holder is learner.module else f"hparams.{name}"


def _number(group: Mapping[str, Any], name: str) -> float:
    value = group.get(name, 0.0)
    return float(value) if isinstance(value, float | int) else 0.0


def _written(network: nn.Module) -> set[str]:
    """Return the names that a user's classes define, Lightning's own aside."""
    kinds = [kind for kind in inspect.getmro(type(network)) if kind.__name__ != "LightningModule"]
    return {name for kind in kinds for name in vars(kind)}
