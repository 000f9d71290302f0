"""What a workload asks of any network before it takes steps: memory format, checkpointing, SyncBatchNorm, compile.

Called by `train`, `lr_find` and whatever else takes real steps, on the device, before an optimizer is built. It must
not change weights.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import nn

from gpuplan_job import activation_checkpointing

if TYPE_CHECKING:
    from gpuplan_job.contract import WorkloadSpec


def apply(network: nn.Module, workload: WorkloadSpec, device: torch.device, *, world_size: int = 1) -> nn.Module:
    """Return the network as the workload wants it, changed in place but for SyncBatchNorm, on `device`.

    Raises:
        JobError: activation checkpointing is asked for and there is nothing to checkpoint.
    """
    if workload.sync_batchnorm and world_size > 1:
        if device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call] # torch does not type it
        else:
            sys.stderr.write("SyncBatchNorm needs CUDA: on this device BatchNorm stays that of each process\n")
    if workload.checkpointing:
        activation_checkpointing.apply(network)
    if workload.channels_last:
        # Convolutions take the format of their weights, whatever that of their inputs.
        network = network.to(memory_format=torch.channels_last)
    if workload.compile:
        _compile(network)
    return network


def _compile(network: nn.Module) -> None:
    """Compile in place, so that the names in checkpoints stay; of a LightningModule the networks that it holds."""
    parts = list(network.children()) if hasattr(network, "training_step") else [network]
    for part in parts:
        if any(True for _ in part.parameters()):
            part.compile()
