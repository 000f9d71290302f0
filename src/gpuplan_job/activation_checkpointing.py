"""Switches on activation checkpointing: each repeated block recomputes its activations in the backward pass.

Called by `network_options` and by the tracer where they are asked for it. It decides by structure which modules are
blocks; a model that has its own switch (transformers) is asked to use that.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = (nn.Conv2d, nn.Conv1d, nn.Linear, nn.MultiheadAttention)
_FEWEST_LAYERS = 2
"""Layers with weights a block has: recomputing a single one saves only its own output."""


def apply(network: nn.Module, *, preserve_rng_state: bool = True) -> None:
    """Let every block of `network` keep its inputs only.

    `preserve_rng_state` lets dropout draw the same in the second forward pass; only where nothing is computed may it be
    left out.

    Raises:
        JobError: it has no repeated block.
    """
    own: Any = getattr(network, "gradient_checkpointing_enable", None)
    if callable(own):
        own(gradient_checkpointing_kwargs={"use_reentrant": False})
        return
    found = list(blocks(network))
    if not found:
        raise JobError(
            "usage",
            f"{type(network).__name__} has no repeated block to checkpoint",
            "leave out --checkpointing; a smaller batch with accumulation saves memory too",
        )
    for block in found:
        block.forward = _checkpointed(
            block.forward, preserve_rng_state=preserve_rng_state
        )  # the one way that keeps names and hooks


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules of a class that occurs again and holds two layers with weights or more."""
    candidates = [part for part in network.modules() if _is_block(part) and part is not network]
    often = Counter(type(part) for part in candidates)
    inside: set[int] = set()
    for part in candidates:
        if id(part) in inside or often[type(part)] < _FEWEST_LAYERS:
            continue
        inside.update(id(child) for child in part.modules())
        yield part


def _is_block(part: nn.Module) -> bool:
    if type(part) in _CONTAINERS or isinstance(part, _LAYERS):
        return False
    return sum(isinstance(child, _LAYERS) for child in part.modules()) >= _FEWEST_LAYERS


def _checkpointed(forward: Any, *, preserve_rng_state: bool) -> Any:  # noqa: ANN401 - a module's forward takes anything
    def run(*inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state, **options)

    return run
