"""Optimizer, loss and learning-rate schedule of a workload, the same in the LR range test and in the training.

Called by `lr_find` and by the training module. It must not decide anything the workload does not say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from gpuplan_job.contract import WorkloadSpec


def build(workload: WorkloadSpec, parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> Optimizer:
    """Return the workload's optimizer over `parameters`, all at one learning rate."""
    if workload.optimizer == "adamw":
        return AdamW(parameters, lr=learning_rate, weight_decay=workload.weight_decay)
    return SGD(parameters, lr=learning_rate, momentum=workload.momentum, weight_decay=workload.weight_decay)


def loss(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float, reduction: Literal["mean", "sum"] = "mean"
) -> torch.Tensor:
    """Return the cross-entropy (scalar) of logits [B, classes] and class targets [B]."""
    return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction=reduction)


def schedule(workload: WorkloadSpec, optimizer: Optimizer, learning_rate: float, total_steps: int) -> LRScheduler:
    """Return the schedule to step once per optimizer step; one-cycle peaks at `learning_rate` (Smith 2018).

    Momentum is not cycled: the range test found the learning rate at the workload's momentum, and a workload without
    momentum must stay without.
    """
    if workload.schedule == "onecycle":
        return OneCycleLR(optimizer, max_lr=learning_rate, total_steps=total_steps, cycle_momentum=False)
    return LambdaLR(optimizer, lambda _step: 1.0)
