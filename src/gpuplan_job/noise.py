"""Gradient noise scale at frozen weights: how far a larger batch still buys a larger LR.

Called by `lr_find` before its first sweep. It takes no optimizer step and leaves weights and buffers (BatchNorm's
running statistics) as they were; it does draw random numbers, so the caller seeds again afterwards.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from gpuplan_job import runtime
from gpuplan_job.contract import NoiseScale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor, nn

    from gpuplan_job.contract import Precision
    from gpuplan_job.sampling import EpochLayout

LEAST_MICRO_BATCHES = 8
"""Fewer give no figure to plan with. On digits with a small network the middle four fifths of measurements lie within a
quarter of their median from 8 micro-batches, and reach twice the median from 2."""
_LARGEST_SCALE = 2.0**16
"""Loss scale to begin with where gradients are float16; halved until they are finite, as a GradScaler would."""


def micro_batches(asked: int, layout: EpochLayout) -> int:
    """Return how many of `asked` micro-batches to measure: at most the full ones of one epoch, 0 if those are too few.

    The estimate takes micro-batches to be independent: a sample drawn twice passes for signal and pulls B_noise down.
    `layout` has one micro-batch a step, on one device.
    """
    full = sum(cut.step_samples == layout.per_gpu for cut in layout.micro_batches(0))
    count = min(asked, full)
    return count if count >= LEAST_MICRO_BATCHES else 0


def measure(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    precision: Precision,
    device: torch.device,
) -> NoiseScale | None:
    """Do as `measure_losses` with a network in training mode; `loss(logits, targets)` is the mean over a micro-batch.

    Returns None where a gradient is not finite: there is nothing to measure.

    Raises:
        ValueError: fewer than two micro-batches, or micro-batches of different sizes.
    """

    def losses() -> Iterator[tuple[int, Callable[[], Tensor]]]:
        for inputs, targets in batches:
            yield len(targets), partial(_loss, inputs, targets)

    def _loss(inputs: Tensor, targets: Tensor) -> Tensor:
        with runtime.autocast(precision, device):
            return loss(network(inputs.to(device)), targets.to(device))

    modes = [(module, module.training) for module in network.modules()]
    network.train()
    try:
        return measure_losses(network, losses(), precision, device)
    finally:
        for module, mode in modes:
            module.training = mode


def measure_losses(
    network: nn.Module,
    losses: Iterable[tuple[int, Callable[[], Tensor]]],
    precision: Precision,
    device: torch.device,
) -> NoiseScale | None:
    """Measure B_noise from at least two micro-batches of one size b (McCandlish et al. 2018, arXiv 1812.06162, A.1).

    An item of `losses` is a micro-batch's samples and what computes its mean loss. No sample may be in two of them: see
    `micro_batches`. With M gradients g_i,
    |G|^2 = (M |mean g|^2 - mean |g_i|^2) / (M - 1) and tr(Sigma) = b M / (M - 1) (mean |g_i|^2 - |mean g|^2).
    Memory: one extra copy of the gradients, whatever M.

    Returns None where a gradient is not finite: there is nothing to measure.

    Raises:
        ValueError: fewer than two micro-batches, or micro-batches of different sizes.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    squares: list[float] = []
    sizes: set[int] = set()
    scale = _LARGEST_SCALE if runtime.effective_precision(precision, device) == "16-mixed" else 1.0
    try:
        for size, loss in losses:
            sizes.add(size)
            while True:
                gradients = torch.autograd.grad(loss() * scale, parameters, allow_unused=True)
                square = _squared_norm(gradients) / scale**2
                if math.isfinite(square) or scale <= 1:
                    break
                scale /= 2
            if not math.isfinite(square):
                return None
            squares.append(square)
            for sum_of_one, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    sum_of_one.add_(gradient.float(), alpha=1 / scale)
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    if len(squares) <= 1 or len(sizes) != 1:
        raise ValueError(f"the noise scale needs two or more micro-batches of one size, got {len(squares)} of {sizes}")
    return _estimate(_squared_norm(total) / len(squares) ** 2, math.fsum(squares) / len(squares), len(squares), *sizes)


def _estimate(square_of_mean: float, mean_square: float, count: int, size: int) -> NoiseScale:
    return NoiseScale(
        squared_gradient=(count * square_of_mean - mean_square) / (count - 1),
        trace_covariance=size * count / (count - 1) * (mean_square - square_of_mean),
        micro_batches=count,
        micro_batch_size=size,
    )


def _squared_norm(gradients: Iterable[Tensor | None]) -> float:
    """Return the squared norm over all parameters, with one transfer from the device."""
    parts = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(parts).sum()) if parts else 0.0
