"""Optimizer, loss and learning-rate schedule of a workload, the same in the LR range test and in the training.

Called by `lr_find` and by the training module. It must not decide anything the workload does not say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from gpuplan_job.contract import ONECYCLE_RISE
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from gpuplan_job.contract import TrainSpec, WorkloadSpec

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # noqa: SLF001 - the base of all BatchNorms
_LAMB_PACKAGE = "pytorch_optimizer"


def _full(_step: int) -> float:
    return 1.0


def build(workload: WorkloadSpec, network: nn.Module, learning_rate: float) -> Optimizer:
    """Return the workload's optimizer over the parameters of a network that are trained, all at one learning rate.

    Weight decay leaves biases and the weights of normalisation layers alone unless the workload says otherwise: it
    would only rescale them (He et al. 2019, arXiv 1812.01187, section 3.1).

    Raises:
        JobError: the workload's optimizer is the module's own, or its package is not installed.
    """
    groups = _groups(network, workload)
    if workload.optimizer == "sgd":
        return SGD(groups, lr=learning_rate, momentum=workload.momentum)
    if workload.optimizer == "adamw":
        return AdamW(groups, lr=learning_rate)
    if workload.optimizer == "lamb":
        return _lamb(groups, learning_rate)
    raise JobError("usage", "--optimizer own needs a LightningModule with configure_optimizers", "--optimizer sgd")


def clip(optimizer: Optimizer, scaler: torch.amp.GradScaler, limit: float | None) -> None:
    """Scale the gradients of all the optimizer's parameters down to a joint 2-norm of `limit`; None leaves them."""
    if limit is None:
        return
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_((p for group in optimizer.param_groups for p in group["params"]), limit)


def _lamb(groups: list[dict[str, Any]], learning_rate: float) -> Optimizer:
    """Return LAMB (You et al. 2020, arXiv 1904.00962), whose trust ratio covers the weight decay."""
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise JobError(
            "import", f"--optimizer lamb needs {_LAMB_PACKAGE}: {error}", "pip install 'gpuplan[local]'"
        ) from error
    built: Optimizer = Lamb(groups, lr=learning_rate, weight_decouple=False)
    return built


def _groups(network: nn.Module, workload: WorkloadSpec) -> list[dict[str, Any]]:
    """Return the parameter groups: decayed weights, and where there are any those that are not decayed."""
    spared = {id(parameter) for parameter in ([] if workload.decay_norms else _spared(network))}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    kept = [parameter for parameter in trained if id(parameter) in spared]
    groups = [{"params": [p for p in trained if id(p) not in spared], "weight_decay": workload.weight_decay}]
    return [group for group in (*groups, {"params": kept, "weight_decay": 0.0}) if group["params"]]


def _spared(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of normalisation layers, and all that are vectors: biases and scales."""
    for module in network.modules():
        yield from (p for p in module.parameters(recurse=False) if isinstance(module, _NORMS) or p.dim() <= 1)


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


def schedule(
    workload: WorkloadSpec,
    optimizer: Optimizer,
    train: TrainSpec,
    total_steps: int,
    *,
    ratios: Sequence[float] | None = None,
    following: Callable[[int], float] = _full,
) -> LRScheduler:
    """Return the schedule to step once per optimizer step; one-cycle peaks at the learning rate (Smith 2018).

    A warm-up is linear from its share of the learning rate (Goyal et al. 2017, section 2.2); one-cycle rises over 30 %
    of the steps by itself, and over the warm-up where that is longer. Cosine falls to 0 after the warm-up (Loshchilov
    and Hutter 2017, without restarts). `ratios` are the parameter groups' LRs over the learning rate; `following` gives
    what a step's is multiplied by while the batch grows.

    Momentum is not cycled: the range test found the learning rate at the workload's momentum, and a workload without
    momentum must stay without.
    """
    peaks = [train.learning_rate * ratio for ratio in ratios or [1.0] * len(optimizer.param_groups)]
    warmup = min(train.warmup_steps, total_steps - 1)
    if workload.schedule == "onecycle":
        # Of a rise of one step PyTorch divides by its length less one.
        rise = max(ONECYCLE_RISE, warmup / total_steps) if warmup > 1 else ONECYCLE_RISE
        options = {"max_lr": peaks, "total_steps": total_steps, "pct_start": rise, "cycle_momentum": False}
        return _OneCycle(optimizer, following, **options)

    def share(step: int) -> float:
        """Return the step's learning rate over the full one; a function, so a checkpoint holds its place alone."""
        if step < warmup:
            return (train.warmup_start + (1 - train.warmup_start) * step / warmup) * following(step)
        if workload.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup))) * following(step)
        return following(step)

    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = group["initial_lr"] = peak
    return LambdaLR(optimizer, share)


class _OneCycle(OneCycleLR):
    """One-cycle times what follows the batch."""

    def __init__(self, optimizer: Optimizer, following: Callable[[int], float], **options: Any) -> None:  # noqa: ANN401
        self._following = following
        super().__init__(optimizer, **options)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rates of the step."""
        share = self._following(self.last_epoch)
        return [rate * share for rate in super().get_lr()]

    def state_dict(self) -> dict[str, Any]:
        """Return its place, without the function, which no checkpoint holds."""
        return {key: value for key, value in super().state_dict().items() if key != "_following"}
