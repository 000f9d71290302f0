"""What a user hands to a search, made usable: the trainer's settings, the precision, the device, the module.

Called by `finder.search` and `finder.batch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.isolation import Snapshot
from gpuplan_job.finder.learner import Lightning, Plain, is_lightning, usable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from torch import Tensor, nn

    from gpuplan_job.contract import Precision

_PRECISIONS: dict[object, Precision] = {
    "fp32": "fp32", "32-true": "fp32", "32": "fp32", 32: "fp32",
    "16-mixed": "16-mixed", "bf16-mixed": "bf16-mixed",
}  # fmt: skip


class TrainerSettings:
    """What a Lightning Trainer says of the training, or the defaults where there is none."""

    def __init__(self, trainer: Any) -> None:  # noqa: ANN401 - either Lightning's Trainer
        self.accumulation: int = getattr(trainer, "accumulate_grad_batches", 1)
        self.precision: object = getattr(trainer, "precision", "fp32")
        self.max_steps: int = getattr(trainer, "max_steps", None) or -1
        self.max_epochs: int | None = getattr(trainer, "max_epochs", None)
        self.clip: float | None = getattr(trainer, "gradient_clip_val", None) or None
        if self.clip is not None and str(getattr(trainer, "gradient_clip_algorithm", None) or "norm") == "value":
            raise FindLrError("the trainer clips gradients by value", "clip by norm, or pass clip= and no trainer")


def precision_of(asked: object) -> Precision:
    """Return the precision that Lightning or a user names.

    Raises:
        FindLrError: it is none of those that a search can run.
    """
    if asked not in _PRECISIONS:
        raise FindLrError(f"precision {asked!r} is not known here", "use fp32, bf16-mixed or 16-mixed")
    return _PRECISIONS[asked]


def device_for(module: nn.Module, asked: str | torch.device) -> torch.device:
    """Return where to search: where it was asked for, else the module's own GPU, else a GPU that is there."""
    own = {parameter.device for parameter in module.parameters()}
    if not own:
        raise FindLrError("the module has no parameters", "build its layers first: setup(), configure_model()")
    if asked != "auto":
        return torch.device(asked)
    first = next(module.parameters()).device
    if len(own) > 1 or first.type != "cpu":
        return first
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps") if torch.backends.mps.is_available() else first


def optimizer_for(learner: Lightning | Plain, given: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    """Return the optimizer that was given, else the module's own.

    Raises:
        FindLrError: there is none, or none that a search can drive.
    """
    if given is None and isinstance(learner, Lightning):
        given = learner.optimizer()
    if given is None:
        raise FindLrError("a module that is no LightningModule needs an optimizer", "pass optimizer=")
    return usable(given)


def moved(snapshot: Snapshot, optimizer: torch.optim.Optimizer, where: torch.device, stack: ExitStack) -> Snapshot:
    """Move the snapshot's module to a device until the stack unwinds; return the snapshot to start from there.

    It is another where the module moved: the tensors of the first belong on the old device.

    Raises:
        FindLrError: the optimizer has state already, which cannot move along.
    """
    module = snapshot.module
    own = {parameter.device for parameter in module.parameters()}
    first = next(iter(own))
    if len(own) > 1 or first == where:
        return snapshot
    if optimizer.state:
        raise FindLrError(
            f"the optimizer's state is on {first}, the search on {where}", f"move the module before, or device={first}"
        )
    for parameter in module.parameters():
        parameter.grad = None  # the snapshot has it
    # Before the snapshot is restored: its tensors belong on the old device.
    stack.callback(module.to, first)
    module.to(where)
    there = Snapshot(module)
    there.add(optimizer)
    return there


def learner_for(
    module: nn.Module,
    data: object,
    loss: Callable[[Any, Any], Tensor] | None,
    step: Callable[[nn.Module, Any], Tensor] | None,
) -> Lightning | Plain:
    """Return what is trained: a module with its own step, or one under the loss or step that came with it.

    Raises:
        FindLrError: it has no loss, or takes its steps itself.
    """
    if is_lightning(module) and loss is None and step is None:
        return Lightning(module, getattr(data, "datamodule", data) if hasattr(data, "train_dataloader") else None)
    return Plain(module, loss, step)
