"""Which class of a user's wrote a method of a LightningModule or LightningDataModule, and what a step is called with.

Called by everything that calls such methods outside Lightning. Both of its packages' names count, neither is imported.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LIGHTNINGS_OWN = ("pytorch_lightning.core.", "lightning.pytorch.core.")
"""Modules of the classes whose versions of the methods do nothing or raise."""
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def writer(holder: object, method: str) -> type | None:
    """Return the class that defines a method; None where only Lightning does, or nobody."""
    kind = next((kind for kind in type(holder).__mro__ if method in vars(kind)), None)
    return None if kind is None or kind.__module__.startswith(_LIGHTNINGS_OWN) else kind


def step_arguments(step: Callable[..., Any], batch: Any, index: int) -> tuple[Any, ...]:  # noqa: ANN401 - any batch
    """Return what Lightning gives a step: the batch, and its index where there is a place for it."""
    parameters = inspect.signature(step).parameters.values()
    places = sum(parameter.kind in _BY_PLACE for parameter in parameters)
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    return (batch, index) if places > 1 or takes_any else (batch,)
