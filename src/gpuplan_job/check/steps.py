"""The check itself: data, model, one batch of two forward and backward, optimizer; each with its own plain failure.

Called by `__main__` in a process of its own, on the CPU. It trains nothing and writes no file.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from gpuplan_job import data, model, network_loss, own, own_data, own_description, own_model, runtime, user_code
from gpuplan_job.check import optimizers
from gpuplan_job.check.reads import Reads, stored
from gpuplan_job.code_check import CheckRequest, CodeCheck, ModelKind
from gpuplan_job.failures import JobError
from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.learner import Lightning, StandIn, is_lightning
from gpuplan_job.lightning_methods import step_arguments, writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.contract import DataDescription

BATCH = 2
"""Samples: BatchNorm needs two."""
_SEED = 0
_LOOKED_AT = 16
"""Samples that are read to see how many bytes are stored for one."""
_SHOWN = 5
_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
_BEFORE_VALIDATION = ("on_validation_start", "on_validation_epoch_start")
"""Hooks in which modules make what their validation step adds to."""
_STEPS = 1000
"""Optimizer steps of the training that a LightningModule is told it is a part of."""


@dataclass(frozen=True)
class _Data:
    description: DataDescription
    batch: Any
    notes: list[str]


def check(request: CheckRequest) -> CodeCheck:
    """Return what a batch of two shows.

    Raises:
        JobError: the first thing that would fail in a job, with file and line of the user's code where it is there.
    """
    reads = Reads()
    with reads.listening(), _quiet():
        found = _data(request, reads)
        runtime.seed_everything(_SEED)
        network, kind = _model(request, found.description)
        shapes = [own_description.shown(tensor) for tensor in own_description.tensors(found.batch)]
        _there_and_back(request.model, network, found, shapes)
        unused = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
        optimizer, problem = optimizers.look(network) if kind == "lightning" else (None, "")
        network.zero_grad(set_to_none=True)
        _validate(request.model, network, found)
    return CodeCheck(
        data=found.description,
        batch=shapes,
        kind=kind,
        unused=unused,
        optimizer=optimizer,
        optimizer_problem=problem,
        notes=found.notes,
        reads=reads.outside(Path(os.environ.get(user_code.FOLDER_VARIABLE) or Path.cwd())),
    )


def _data(request: CheckRequest, reads: Reads) -> _Data:
    if own.is_own(request.data):
        made = own_data.load(request.data, request.data_args)
        description = own_description.describe(request.data, made)
        batch = own_data.batch(request.data, made, BATCH)
        if next(own_description.tensors(batch), None) is None:
            raise JobError(
                "usage", f"--data {request.data}: a batch holds no tensor", "let samples be tensors or numbers"
            )
        looked = min(_LOOKED_AT, own_data.count(made.train))
        with reads.listening() as opened:
            own_data.batch(request.data, made, looked)
        size, pictures = stored(opened, looked, own_data.count(made.train))
        storage: Literal["jpeg", "tensors"] = "jpeg" if pictures else "tensors"
        description = replace(description, bytes_per_sample=size, storage=storage)
        return _Data(description, batch, made.notes)
    if request.described is None:
        raise JobError("internal", f"--data {request.data} was not described", "report it: it should not happen")
    return _Data(request.described, _batch_of_kind(request, request.described), [])


def _batch_of_kind(request: CheckRequest, description: DataDescription) -> tuple[Tensor, Tensor]:
    if request.here:
        train, _ = data.load(request.data, request.image_size)
        samples = [train[index] for index in range(BATCH)]
        return torch.stack([image for image, _ in samples]), torch.tensor([target for _, target in samples])
    sides = (request.image_size, request.image_size) if request.image_size else (description.height, description.width)
    targets = torch.randint(description.classes, (BATCH,))
    return torch.randn(BATCH, description.channels, *sides), targets


def _model(request: CheckRequest, description: DataDescription) -> tuple[nn.Module, ModelKind]:
    if not own.is_own(request.model):
        if description.sample or description.classes < 2:  # noqa: PLR2004 - fewer leave nothing to tell apart
            what = f"samples of {description.sample}" if description.sample else f"{description.classes} classes"
            raise JobError(
                "usage",
                f"--model {request.model} tells apart classes of images [C, H, W], and {request.data} gives {what}",
                "name a model of your own, or give the data module `num_classes`",
            )
        return model.build(request.model, description, request.image_size).train(), "torchvision"
    network = own_model.build(request.model, request.model_args)
    if not any(p.requires_grad for p in network.parameters()):
        raise JobError("usage", f"--model {request.model} has no parameter to train", "leave requires_grad of some on")
    return network.train(), "lightning" if is_lightning(network) else "network"


def _there_and_back(spec: str, network: nn.Module, found: _Data, shapes: list[str]) -> None:
    """Run forward and backward pass and leave the gradients in place."""
    given = f"for a batch of {', '.join(shapes)}"
    loss = _loss(spec, network, found, given)
    if not isinstance(loss, Tensor):
        raise JobError(
            "user-code",
            f"--model {spec}: its loss is a {type(loss).__name__}",
            "return the loss as a tensor of one number",
        )
    if loss.numel() != 1:
        raise JobError(
            "user-code",
            f"--model {spec}: its loss is {own_description.shown(loss)}, not one number, {given}",
            "return the mean over the batch, as reduction='mean' gives it",
        )
    if not loss.requires_grad:
        raise JobError(
            "user-code",
            f"--model {spec}: its loss has no gradient: it depends on no parameter, or was detached",
            "return the loss itself, without .detach(), .item() or torch.no_grad()",
        )
    value = float(loss.detach())
    if not math.isfinite(value):
        raise JobError(
            "user-code",
            f"--model {spec}: the loss is {value} on the very first batch, before any step, {given}",
            "look for a logarithm or a root of 0, a division by 0, or NaN in the data",
        )
    try:
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
    except user_code.FAILURES as error:
        raise user_code.failed(f"--model {spec}: the backward pass failed, {given}", error) from error
    broken = [name for name, p in network.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if broken:
        names = ", ".join(broken[:_SHOWN])
        raise JobError(
            "user-code",
            f"--model {spec}: the loss is {value:.4g}, but the gradient of {names} is not finite on the first batch",
            "look for a root or a norm at 0: its value is finite and its slope is not",
        )


def _loss(spec: str, network: Any, found: _Data, given: str) -> Any:  # noqa: ANN401 - a user's model and its answer
    if not is_lightning(network):
        return _loss_of_network(spec, network, found.batch, given)
    try:
        learner = Lightning(network)
        with learner.attached(_STEPS):
            return learner.loss_of(learner.moved(found.batch, torch.device("cpu")), 0)
    except FindLrError as error:
        raise JobError("user-code", f"--model {spec}: {error.problem}", error.fix) from error
    except user_code.FAILURES as error:
        raise user_code.failed(f"--model {spec}: training_step failed, {given}", error) from error


def _loss_of_network(spec: str, network: nn.Module, batch: Any, given: str) -> Any:  # noqa: ANN401 - as above
    if not isinstance(batch, list | tuple) or len(batch) != 2:  # noqa: PLR2004 - inputs and targets
        raise JobError(
            "usage",
            f"--model {spec} is no LightningModule, and a batch is no pair of inputs and targets",
            "write a LightningModule whose training_step returns the loss",
        )
    inputs, targets = batch
    try:
        output = network(inputs)
    except user_code.FAILURES as error:
        raise user_code.failed(f"--model {spec}: the forward pass failed, {given}", error) from error
    try:
        return network_loss.mean(network, output, targets, 0.0)
    except JobError:
        raise
    except user_code.FAILURES as error:
        raise user_code.failed(f"--model {spec}: its loss failed, {given}", error) from error


def _validate(spec: str, network: Any, found: _Data) -> None:  # noqa: ANN401 - a user's model
    """Run the validation step once, as an epoch's first: an error in it would cost a whole epoch."""
    if not is_lightning(network) or writer(network, "validation_step") is None:
        return
    learner = Lightning(network)
    network.eval()
    called = ""
    try:
        with learner.attached(_STEPS), torch.no_grad():
            for called in _BEFORE_VALIDATION:
                getattr(network, called)()
            called = "validation_step"
            step = network.validation_step
            step(*step_arguments(step, learner.moved(found.batch, torch.device("cpu")), 0))
    except user_code.FAILURES as error:
        # What the stand-in of a trainer does not know says nothing about the user's code.
        if isinstance(error, AttributeError) and isinstance(error.obj, StandIn):
            return
        raise user_code.failed(f"--model {spec}: {called} failed on a batch of training data", error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what Lightning says of a module without its trainer."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
