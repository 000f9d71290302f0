"""What is trained, whoever wrote it: a Lightning module with its own step, or a plain module with a loss.

Called by `finder.search`. It knows Lightning by its method names, so either of its packages will do and neither is
imported.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.lightning_methods import step_arguments, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_LOGS = ("log", "log_dict")
_RATE_NAMES = ("learning_rate", "lr")


def is_lightning(module: nn.Module) -> bool:
    """Return whether a module brings its own training step and optimizers."""
    return hasattr(module, "training_step") and hasattr(module, "configure_optimizers")


@dataclass(frozen=True)
class Plain:
    """A module under a loss: `loss(outputs, targets)` of pairs, or `step(module, batch)` of anything."""

    module: nn.Module
    loss: Callable[[Any, Any], Tensor] | None
    step: Callable[[nn.Module, Any], Tensor] | None

    def __post_init__(self) -> None:
        """Refuse a module without a loss."""
        if (self.loss is None) == (self.step is None):
            raise FindLrError(
                "a module that is no LightningModule needs a loss",
                "pass loss=fn(outputs, targets) for batches of pairs, or step=fn(module, batch) that returns the loss",
            )

    def moved(self, batch: object, device: torch.device) -> Any:  # noqa: ANN401 - a batch is what the loader gives
        """Return the batch on a device."""
        return _moved(batch, device)

    def loss_of(self, batch: Any, index: int) -> Tensor:  # noqa: ANN401 - as above
        """Return the mean loss of a batch on the device."""
        del index
        if self.step is not None:
            return self.step(self.module, batch)
        if self.loss is None or not isinstance(batch, Sequence) or len(batch) != 2:  # noqa: PLR2004 - a pair
            raise FindLrError("the batches are not pairs of inputs and targets", "pass step=fn(module, batch)")
        inputs, targets = batch
        return self.loss(self.module(inputs), targets)

    @contextlib.contextmanager
    def attached(self, steps: int) -> Iterator[None]:
        """Do nothing: only a Lightning module asks for its trainer."""
        del steps
        yield


@dataclass(frozen=True)
class Lightning:
    """A LightningModule: its `training_step` under automatic optimization."""

    module: Any
    datamodule: Any = None

    def __post_init__(self) -> None:
        """Refuse what is not one step with one loss."""
        if not getattr(self.module, "automatic_optimization", True):
            raise FindLrError(
                "the module optimizes manually: its step takes as many optimizer steps as it likes",
                "call find_lr with the bare network, its optimizer and step=fn(module, batch)",
            )
        if "dataloader_iter" in inspect.signature(self.module.training_step).parameters:
            raise FindLrError("training_step takes a dataloader_iter", "write it for a batch")

    def moved(self, batch: object, device: torch.device) -> Any:  # noqa: ANN401 - a batch is what the loader gives
        """Return the batch on a device, through the hooks that Lightning would call."""
        for name in _HOOKS:
            owner = self.datamodule if writer(self.datamodule, name) else self.module
            arguments = (batch, device, 0) if name == "transfer_batch_to_device" else (batch, 0)
            batch = getattr(owner, name)(*arguments)
        return batch

    def loss_of(self, batch: Any, index: int) -> Tensor:  # noqa: ANN401 - as above
        """Return the loss of the module's own training step."""
        step = self.module.training_step
        output = step(*step_arguments(step, batch, index))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, torch.Tensor):
            raise FindLrError(f"training_step returned {type(loss).__name__}", "return the loss of every batch")
        return loss

    @contextlib.contextmanager
    def attached(self, steps: int) -> Iterator[None]:
        """Let the module find a trainer of so many steps, and keep what it logs to itself, for the block."""
        parts = [part for part in self.module.modules() if is_lightning(part)]
        alone = vars(self.module).get("_trainer") is None and vars(self.module).get("_fabric") is None
        if alone:
            self.module.trainer = StandIn(steps)
        own = [(part, {name: vars(part)[name] for name in _LOGS if name in vars(part)}) for part in parts]
        for part in parts:
            vars(part).update(dict.fromkeys(_LOGS, _unheard))
        try:
            yield
        finally:
            for part, before in own:
                for name in _LOGS:
                    vars(part).pop(name, None)
                vars(part).update(before)
            if alone:
                self.module.trainer = None

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the one optimizer that the module configures; its schedules are left aside.

        Raises:
            FindLrError: there is none, or more than one.
        """
        return self.only(self.module.configure_optimizers())

    @staticmethod
    def only(configured: Any) -> torch.optim.Optimizer:  # noqa: ANN401 - whatever Lightning takes
        """Return the one optimizer in what `configure_optimizers` gave.

        Raises:
            FindLrError: there is none, or more than one.
        """
        if isinstance(configured, tuple | list) and configured and isinstance(configured[0], tuple | list):
            configured = configured[0]
        found = list(configured) if isinstance(configured, tuple | list) else [configured]
        found = [item["optimizer"] if isinstance(item, Mapping) else item for item in found if item is not None]
        if len(found) != 1:
            raise FindLrError(
                f"configure_optimizers gives {len(found)} optimizers, and a range test has one learning rate",
                "find the learning rate of one network at a time: the bare network, its optimizer and its loss",
            )
        return found[0]  # type: ignore[no-any-return] # checked by `usable`

    def stated_rate(self) -> tuple[Any, str, float] | None:
        """Return where the module states its learning rate, under which name, and the rate; None where it does not."""
        for holder in (self.module, vars(self.module).get("_hparams")):
            for name in _RATE_NAMES:
                value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
                if isinstance(value, float | int) and not isinstance(value, bool) and value > 0:
                    return holder, name, float(value)
        return None

    def state_rate(self, rate: float) -> bool:
        """Let the module state another learning rate wherever it states one; return whether it states any."""
        stated = self.stated_rate()
        if stated is None:
            return False
        holder, name, _ = stated
        for owner in (holder, vars(self.module).get("_hparams")):
            if isinstance(owner, dict) and name in owner:
                owner[name] = rate
            elif owner is self.module:
                setattr(self.module, name, rate)
        return True


@dataclass
class StandIn:
    """What a module may ask of its trainer while there is none: how long the training is."""

    estimated_stepping_batches: int
    max_epochs: int = 1
    current_epoch: int = 0
    global_step: int = 0
    world_size: int = 1
    num_devices: int = 1
    accumulate_grad_batches: int = 1
    global_rank: int = 0
    is_global_zero: bool = True
    training: bool = True
    sanity_checking: bool = False
    logger: None = None
    loggers: tuple[()] = field(default=())

    @property
    def max_steps(self) -> int:
        """The training's optimizer steps."""
        return self.estimated_stepping_batches

    @property
    def num_training_batches(self) -> int:
        """All of them: the stand-in knows one long epoch."""
        return self.estimated_stepping_batches


def optimizer_name(optimizer: torch.optim.Optimizer) -> Literal["sgd", "adamw"]:
    """Return what rules and policies know an optimizer as: SGD, or one that divides by the gradient's size."""
    return "sgd" if isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD) else "adamw"


def usable(optimizer: object) -> torch.optim.Optimizer:
    """Return an optimizer that a sweep can drive.

    Raises:
        FindLrError: it is none, or its step needs a closure.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise FindLrError(f"{type(optimizer).__name__} is no torch optimizer", "pass optimizer=torch.optim....")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if isinstance(optimizer, torch.optim.LBFGS) or (closure and closure.default is inspect.Parameter.empty):
        raise FindLrError(
            f"{type(optimizer).__name__} evaluates the loss many times a step, so a step has no one loss",
            "range-test a first-order optimizer such as SGD or AdamW",
        )
    return optimizer


def peak_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return each parameter group's LR as it was configured: schedules have moved `lr` already, warm-ups to near 0."""
    return [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]


def _unheard(*_: object, **__: object) -> None:
    """Stand in for `self.log`: a sweep's losses are not the training's."""


def _moved(batch: Any, device: torch.device) -> Any:  # noqa: ANN401 - a batch is what the loader gives
    if isinstance(batch, Mapping):
        return {key: _moved(item, device) for key, item in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(item, device) for item in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_moved(item, device) for item in batch)
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch
