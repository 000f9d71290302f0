"""What is traced: a network by name or by `module:callable`, a batch for it, and the loss of the two.

Used by `step`. It builds on the CPU and leaves weights unfilled; it downloads nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gpuplan_job import model, optim
from gpuplan_job.contract import DataDescription
from gpuplan_job.failures import JobError
from gpuplan_job.trace.fake_cuda import without_initialization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpuplan_job.step_trace import InputSpec, TraceRequest


@dataclass(frozen=True)
class Outcome:
    """What a forward pass leaves in the hands of a loop."""

    loss: list[Tensor]
    """One scalar; a list, so that the last reference can be handed over."""
    outputs: list[Tensor]
    """What a plain loop holds on to until the next forward pass: the logits. Detached."""


Forward = "Callable[[], Outcome]"


def build(request: TraceRequest) -> nn.Module:
    """Return the network, on the CPU, with memory for its weights but no values in it.

    Raises:
        JobError: there is no such network, or it cannot be constructed.
    """
    with without_initialization():
        if ":" not in request.model:
            return model.build(request.model, _description(request.inputs), None).train()
        network = _own(request.model)
    if not isinstance(network, nn.Module):
        raise JobError("usage", f"{request.model} is a {type(network).__name__}, not a torch.nn.Module", "name another")
    return network.train()


def batch(inputs: InputSpec, size: int) -> tuple[Tensor, Tensor]:
    """Return `size` samples and their targets as CUDA tensors; called under a FakeTensorMode."""
    if inputs.kind == "tokens":
        tokens = torch.zeros(size, inputs.length, dtype=torch.long, device="cuda")
        return tokens, torch.zeros(size, inputs.length, dtype=torch.long, device="cuda")
    images = torch.empty(size, inputs.channels, inputs.height, inputs.width, device="cuda")
    return images, torch.zeros(size, dtype=torch.long, device="cuda")


def forward(network: nn.Module, samples: tuple[Tensor, Tensor], inputs: InputSpec) -> Outcome:
    """Run a forward pass the way a training loop does and return its loss and what the loop holds on to.

    A LightningModule runs its `training_step`. A model that returns its own loss, as those of transformers do, is
    given the tokens as labels. Any other network's output is judged by cross-entropy, the last dimension being classes.

    Raises:
        JobError: no scalar loss comes out.
    """
    data, targets = samples
    if callable(getattr(network, "training_step", None)):
        result = network.training_step((data, targets), 0)
        loss = result["loss"] if isinstance(result, dict) else result
        return Outcome([_scalar(loss, network)], [])
    output: Any = network(data, labels=data) if inputs.kind == "tokens" else network(data)
    if getattr(output, "loss", None) is not None:
        return Outcome([_scalar(output.loss, network)], [part.detach() for part in _tensors(output)])
    logits = output["out"] if isinstance(output, dict) and "out" in output else output
    if not isinstance(logits, Tensor):
        raise JobError(
            "usage",
            f"{type(network).__name__} returns a {type(logits).__name__}: no loss is known for it",
            "wrap it in a LightningModule whose training_step returns the loss",
        )
    if inputs.kind == "tokens":
        loss = optim.loss(logits.flatten(0, -2), targets.flatten(), 0.0)
    else:
        loss = optim.loss(logits, targets, 0.0)
    return Outcome([_scalar(loss, network)], [logits.detach()])


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the tensors in what a model returned: logits, and where it has them the keys and values of a cache."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
    elif hasattr(output, "__dict__"):
        yield from _tensors(vars(output))


def _scalar(loss: object, network: nn.Module) -> Tensor:
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.grad_fn is not None:
        return loss
    raise JobError(
        "usage",
        f"{type(network).__name__} gives no scalar loss with a gradient",
        "its training_step must return the loss, or {'loss': ...}",
    )


def _own(name: str) -> object:
    """Return what a user's `module:callable` makes."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path holds text
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found if isinstance(found, nn.Module) else found()
    except ImportError as error:
        raise JobError(
            "import", f"{name}: {error}", "install what it needs, or start gpuplan where the module lies"
        ) from error
    except AttributeError as error:
        raise JobError("usage", f"{name}: {error}", f"name a class or a function of {module_name}") from error
    except Exception as error:
        raise JobError(
            "user-code", f"{name} failed: {type(error).__name__}: {error}", "it must work without arguments"
        ) from error
    finally:
        sys.path.pop(0)


def _description(inputs: InputSpec) -> DataDescription:
    return DataDescription(
        train_samples=1,
        val_samples=1,
        channels=inputs.channels,
        height=inputs.height,
        width=inputs.width,
        classes=inputs.classes,
        bytes_per_sample=0,
    )
