"""A workload's network outside Lightning: on its device, with its mean loss, precision and optimizer, for real steps.

Called by what measures before a training: the range test, the noise scale, the batch search. It must not loop, seed or
read data.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpuplan_job import network_loss, network_options, optim, own_optimizer, runtime
from gpuplan_job.contract import OWN
from gpuplan_job.finder.learner import Lightning, is_lightning, optimizer_name, peak_rates

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor, nn

    from gpuplan_job.contract import WorkloadSpec

Batch = Any
"""Inputs [B, ...] and targets [B, ...], or whatever a LightningModule's own data give."""


@dataclass
class Learner:
    """A network ready for steps on a device, its mean loss, and the optimizer at one learning rate."""

    network: nn.Module
    workload: WorkloadSpec
    device: torch.device
    own: Lightning | None
    """Set where the network is a LightningModule."""
    own_optimizer: Literal["sgd", "adamw"] | None = None
    """What rules know the module's own optimizer as, once it was built."""

    @classmethod
    def of(cls, network: nn.Module, workload: WorkloadSpec, device: torch.device) -> Learner:
        """Return the learner of a fresh network, moved to the device and in training mode.

        Raises:
            JobError: the network cannot be trained as the workload says.
        """
        own = own_optimizer.own_module(network) if is_lightning(network) else None
        ready = network_options.apply(network.to(device), workload, device)
        ready.train()
        return cls(ready, workload, device, own)

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Return the workload's optimizer.

        Raises:
            JobError: it is the module's own, and does not follow a learning rate that can be set.
        """
        if self.workload.optimizer == OWN and self.own is not None:
            configured = own_optimizer.configure_own(self.own, self.own.module.configure_optimizers, learning_rate)
            optimizer = self.own.only(configured)
            self.own_optimizer = optimizer_name(optimizer)
            for group, rate in zip(optimizer.param_groups, peak_rates(optimizer), strict=True):
                group["lr"] = rate  # a schedule's warm-up has lowered it already
            return optimizer
        return optim.build(self.workload, self.network, learning_rate)

    def loss(self, batch: Batch, index: int = 0) -> Tensor:
        """Return the mean loss of a micro-batch, moved to the device, under the workload's precision."""
        with runtime.autocast(self.workload.precision, self.device):
            if self.own is not None:
                return self.own.loss_of(self.own.moved(batch, self.device), index)
            inputs, targets = (part.to(self.device, non_blocking=True) for part in batch)
            return network_loss.mean(self.network, self.network(inputs), targets, self.workload.label_smoothing)

    def attached(self, steps: int) -> AbstractContextManager[None]:
        """Let a LightningModule find a trainer of so many steps, and keep what it logs to itself, for the block."""
        return contextlib.nullcontext() if self.own is None else self.own.attached(steps)
