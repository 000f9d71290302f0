"""What is traced: a network by name or by `module:callable`, a batch for it, and the loss of the two.

Used by `step`. It builds on the CPU and leaves weights unfilled; it downloads nothing.
"""

from __future__ import annotations

import json
import os
import site
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gpuplan_job import model, network_loss, optim, own_data, own_description, own_model, user_code
from gpuplan_job.contract import DataDescription
from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError
from gpuplan_job.finder.learner import Lightning
from gpuplan_job.trace.fake_cuda import without_initialization

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpuplan_job.step_trace import InputSpec, TraceRequest

_PAYLOAD = Path(__file__).resolve().parents[1]
_STEPS = 1000
"""Optimizer steps of the training that a LightningModule is told it is a part of."""


@dataclass(frozen=True)
class Outcome:
    """What a forward pass leaves in the hands of a loop."""

    loss: list[Tensor]
    """One scalar; a list, so that the last reference can be handed over."""
    outputs: list[Tensor]
    """What a plain loop holds on to until the next forward pass: the logits. Detached."""


def build(request: TraceRequest) -> nn.Module:
    """Return the network, on the CPU, with memory for its weights but no values in it.

    Raises:
        JobError: there is no such network, or it cannot be constructed.
    """
    with without_initialization():
        if ":" not in request.model:
            return model.build(request.model, _description(request.inputs), None).train()
        return own_model.build(request.model, json.loads(request.model_args)).train()


def batches(request: TraceRequest, sizes: Iterable[int]) -> list[Any]:
    """Return what a batch of each size is made of: of the user's own data real batches, of others None.

    Called before any tensor is faked: a user's data set reads its samples.

    Raises:
        JobError: the user's data cannot be had.
    """
    if not request.data:
        return [None for _ in sizes]
    own = own_data.load(request.data, json.loads(request.data_args))
    return [own_data.batch(request.data, own, size) for size in sizes]


def on_gpu(real: Any, inputs: InputSpec, size: int) -> Any:  # noqa: ANN401 - a batch is whatever the user's data give
    """Return a batch as CUDA tensors: of the shapes of a real one, else `size` samples and targets as `inputs` says.

    Called under a FakeTensorMode.
    """
    if real is not None:
        return tree_map_only(Tensor, lambda part: torch.empty(part.shape, dtype=part.dtype, device="cuda"), real)
    if inputs.kind == "tokens":
        tokens = torch.zeros(size, inputs.length, dtype=torch.long, device="cuda")
        return tokens, torch.zeros(size, inputs.length, dtype=torch.long, device="cuda")
    images = torch.empty(size, inputs.channels, inputs.height, inputs.width, device="cuda")
    return images, torch.zeros(size, dtype=torch.long, device="cuda")


def forward(network: nn.Module, samples: Any, inputs: InputSpec) -> Outcome:  # noqa: ANN401 - as above
    """Run a forward pass the way a training loop does and return its loss and what the loop holds on to.

    A LightningModule runs its transfer hooks and its `training_step`. A model that returns its own loss, as those of
    transformers do, is given the tokens as labels. A network's own `loss(outputs, targets)` is taken as in a training;
    any other's output is judged by cross-entropy, the last dimension being classes.

    Raises:
        JobError: no scalar loss comes out.
    """
    if callable(getattr(network, "training_step", None)):
        learner = Lightning(network)
        with learner.attached(_STEPS):
            return Outcome([_scalar(learner.loss_of(_transferred(learner, samples), 0), network)], [])
    if not isinstance(samples, tuple | list) or len(samples) != 2:  # noqa: PLR2004 - inputs and targets
        raise JobError(
            "usage",
            f"{type(network).__name__} is no LightningModule, and a batch of the data is no pair of inputs and targets",
            "write a LightningModule whose training_step returns the loss",
        )
    data, targets = samples
    output: Any = network(data, labels=data) if inputs.kind == "tokens" else network(data)
    if inputs.kind != "tokens" and callable(getattr(network, "loss", None)):
        loss = network_loss.mean(network, output, targets, 0.0)
        return Outcome([_scalar(loss, network)], [part.detach() for part in _tensors(output)])
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


def sources(request: TraceRequest) -> dict[str, str]:
    """Return the digests of the files that a user's model was made by: what was imported and is not installed."""
    if ":" not in request.model:
        return {}
    installed = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, *site.getsitepackages())]
    # What was shipped is told apart by its digest in the request.
    shipped = [Path(folder).resolve()] if (folder := os.environ.get(user_code.FOLDER_VARIABLE)) else []
    files = {Path(name).resolve() for part in list(sys.modules.values()) if (name := getattr(part, "__file__", None))}
    own = [path for path in files if not any(path.is_relative_to(root) for root in (*installed, *shipped, _PAYLOAD))]
    # torch gives some of its modules the name of a file that does not exist.
    return {str(path): sha256_hex(path.read_bytes()) for path in sorted(own) if path.suffix == ".py" and path.is_file()}


def _transferred(learner: Lightning, samples: Any) -> Any:  # noqa: ANN401 - as above
    """Return the samples after a module's transfer hooks; a module that only looks like Lightning's has none.

    They lie on the GPU already and their device is named with its number, so that none is copied.
    """
    first = next(own_description.tensors(samples), None)
    if first is None or not hasattr(learner.module, "transfer_batch_to_device"):
        return samples
    return learner.moved(samples, first.device)


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
