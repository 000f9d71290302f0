"""Builds a model of the user's own from `module:Class` and its constructor arguments.

Called by `train`, `lr_find`, `check` and `trace`. It constructs and judges the type, nothing else; weights are drawn
from torch's global seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from gpuplan_job import user_code
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

FLAG = "--model"


def build(spec: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a LightningModule or another network with fresh weights, from keyword arguments.

    Raises:
        JobError: kind `import`, `usage` or `user-code`: there is no such module or class, it takes other arguments, it
            fails, or what it makes is no network.
    """
    network = user_code.construct(spec, arguments, FLAG)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise JobError("usage", f"{FLAG} {spec} makes a {kind}, not a torch.nn.Module", "name a class of networks")
    return network
