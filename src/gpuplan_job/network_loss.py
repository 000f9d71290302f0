"""The loss of a network that is no LightningModule: its own `loss(outputs, targets)`, else cross-entropy over classes.

Called by everything that trains such a network: range test, training, batch search. It must not decide anything that
the network or the workload does not say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpuplan_job import optim
from gpuplan_job.failures import JobError
from gpuplan_job.finder.learner import is_lightning

if TYPE_CHECKING:
    from torch import nn


def mean(network: nn.Module, outputs: Any, targets: Any, label_smoothing: float) -> Tensor:  # noqa: ANN401 - the network's
    """Return the mean loss (scalar) of a batch.

    Raises:
        JobError: the network has no loss and gives no logits, or its loss is no scalar.
    """
    own = getattr(network, "loss", None)
    if callable(own):
        found = own(outputs, targets)
        if not isinstance(found, Tensor) or found.dim() != 0:
            shown = f"of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise JobError(
                "user-code",
                f"{type(network).__name__}.loss(outputs, targets) returned {shown}, not a scalar tensor",
                "return the mean over the batch",
            )
        return found
    if not are_logits(outputs, targets):
        raise JobError(
            "user-code",
            f"{type(network).__name__} gives {_shape(outputs)} for {_shape(targets)}: cross-entropy needs classes",
            "give it a method loss(outputs, targets) that returns the batch's mean, or make it a LightningModule",
        )
    return optim.loss(outputs, targets, label_smoothing)


def class_targets(network: nn.Module, batch: object) -> Tensor | None:
    """Return a batch's targets [B] where the loss is cross-entropy over classes; None where it is another, or unknown.

    Negative ones are ignored by the loss.
    """
    if is_lightning(network) or callable(getattr(network, "loss", None)):
        return None
    targets = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None  # noqa: PLR2004 - a pair
    found = isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype == torch.long
    return targets if found else None


def are_logits(outputs: object, targets: object) -> bool:
    """Tell whether outputs [B, classes] are logits for class targets [B]."""
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and (outputs.dim(), targets.dim()) == (2, 1)
        and targets.dtype == torch.long
    )


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
