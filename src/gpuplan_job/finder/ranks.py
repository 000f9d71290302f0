"""Several processes, one sweep: gradients averaged as DDP does, and every decision the one of rank 0.

Called by `finder.search`. Where torch.distributed is not at work there is one rank and nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Ranks:
    """The processes that take each step together."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Return this process among those that torch.distributed connects."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def average_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Replace each gradient by its mean over the ranks; one that no rank has stays away."""
        if self.world_size == 1 or not parameters:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        distributed.all_reduce(used)
        shared = [p for p, count in zip(parameters, used.tolist(), strict=True) if count]
        for kind in dict.fromkeys(p.dtype for p in shared):
            of_kind = [p for p in shared if p.dtype == kind]
            flat = torch.cat([torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1) for p in of_kind])
            distributed.all_reduce(flat)
            flat /= self.world_size
            for parameter, mean in zip(of_kind, torch.split(flat, [p.numel() for p in of_kind]), strict=True):
                parameter.grad = mean.view_as(parameter).clone()

    def agreed(self, loss: float, device: torch.device, *, taken: bool) -> tuple[float, bool]:
        """Return the mean loss, and whether the step was taken, as rank 0 holds them: no rank may stop by itself."""
        if self.world_size == 1:
            return loss, taken
        kind = torch.float32 if device.type == "mps" else torch.float64
        told = torch.tensor([loss / self.world_size, float(taken)], device=device, dtype=kind)
        distributed.all_reduce(told)
        distributed.broadcast(told, src=0)
        mean, all_taken = told.tolist()
        return mean, all_taken == self.world_size

    def told(self, text: str) -> str:
        """Return rank 0's text on every rank."""
        if self.world_size == 1:
            return text
        held = [text]
        distributed.broadcast_object_list(held, src=0)
        return held[0]
