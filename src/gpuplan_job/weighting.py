"""Strategies under which a step's gradient is that of the mean over all its samples, in a ragged last step too.

Built by `train`. A module returns the mean loss of its micro-batch, DDP averages gradients over ranks, and Lightning
divides by the micro-batches of a step: right where all are equally large. A strategy here weighs each micro-batch by
its samples. It must not touch the loss that is reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from pytorch_lightning.strategies import Strategy
    from torch import Tensor

    from gpuplan_job.sampling import EpochLayout, MicroBatch


def weight(cut: MicroBatch, layout: EpochLayout) -> float:
    """Return what a micro-batch's mean loss is multiplied by: its share of the step's samples over an equal share."""
    return (cut.stop - cut.start) * layout.world_size * layout.accumulation / cut.step_samples


class _Weighted:
    """Backward passes of weighed losses; before a Lightning strategy in a class's bases."""

    current_weight: Callable[[], float]

    def backward(
        self,
        closure_loss: Tensor,
        optimizer: torch.optim.Optimizer | None,
        *args: Any,  # noqa: ANN401 - Lightning's
        **kwargs: Any,  # noqa: ANN401 - Lightning's
    ) -> Tensor:
        """Run the backward pass of the weighed loss."""
        factor = self.current_weight()
        weighed = closure_loss if factor == 1 else closure_loss * factor
        result: Tensor = super().backward(weighed, optimizer, *args, **kwargs)  # type: ignore[misc] # of the strategy
        return result


class _WeightedSingle(_Weighted, SingleDeviceStrategy):
    """One process."""


class _WeightedDdp(_Weighted, DDPStrategy):
    """Several processes."""


def strategy(device: torch.device, *, distributed: bool, current_weight: Callable[[], float]) -> Strategy:
    """Return the strategy of a training; `current_weight` is asked before each backward pass."""
    made: _WeightedSingle | _WeightedDdp
    if distributed:
        # Without buffer broadcasts a forward pass holds no collective, so ranks may validate unequal numbers of
        # batches; `epoch_draws` broadcasts the buffers when they matter.
        made = _WeightedDdp(process_group_backend="nccl" if device.type == "cuda" else "gloo", broadcast_buffers=False)
    else:
        made = _WeightedSingle(device=device)
    made.current_weight = current_weight
    return made
