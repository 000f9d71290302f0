"""Optimizer, loss and learning-rate schedule of a workload, the same in the LR range test and in the training.

Called by `lr_find` and by the training module. It must not decide anything the workload does not say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from gpuplan_job.contract import ONECYCLE_RISE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from gpuplan_job.contract import TrainSpec, WorkloadSpec


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


def chance_loss(targets: Mapping[int, int], label_smoothing: float) -> float | None:
    """Return the loss (nats) of always answering with the classes' frequencies, from counts of targets by class.

    With label smoothing the loss asks for the frequencies mixed with the uniform distribution; the classes are those
    that were seen. Corrected for the entropy that a sample lacks: Miller 1955, (classes - 1) / (2 samples).
    None where no two classes were seen.
    """
    total = sum(targets.values())
    if len(targets) <= 1:
        return None
    shares = [(1 - label_smoothing) * count / total + label_smoothing / len(targets) for count in targets.values()]
    entropy = -math.fsum(share * math.log(share) for share in shares)
    return min(math.log(len(targets)), entropy + (len(targets) - 1) / (2 * total))


def schedule(workload: WorkloadSpec, optimizer: Optimizer, train: TrainSpec, total_steps: int) -> LRScheduler:
    """Return the schedule to step once per optimizer step; one-cycle peaks at the learning rate (Smith 2018).

    A warm-up is linear from its share of the learning rate (Goyal et al. 2017, section 2.2). One-cycle rises over 30 %
    of the steps by itself, and over the warm-up where that is longer.

    Momentum is not cycled: the range test found the learning rate at the workload's momentum, and a workload without
    momentum must stay without.
    """
    warmup = min(train.warmup_steps, total_steps - 1)
    if workload.schedule == "onecycle":
        # Of a rise of one step PyTorch divides by its length less one.
        rise = max(ONECYCLE_RISE, warmup / total_steps) if warmup > 1 else ONECYCLE_RISE
        return OneCycleLR(
            optimizer, max_lr=train.learning_rate, total_steps=total_steps, pct_start=rise, cycle_momentum=False
        )

    def share(step: int) -> float:
        """Return the step's learning rate over the full one; a function, so a checkpoint holds its place alone."""
        return 1.0 if step >= warmup else train.warmup_start + (1 - train.warmup_start) * step / warmup

    return LambdaLR(optimizer, share)
