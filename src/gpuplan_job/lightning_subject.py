"""The Lightning module of a training: the user's own, or a `Classifier` around a network, and its optimizer.

Called by `train`. Whatever comes out trains at the learning rate that the job was told.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from gpuplan_job import optim
from gpuplan_job.classifier import Classifier
from gpuplan_job.contract import OWN
from gpuplan_job.failures import JobError
from gpuplan_job.finder.learner import is_lightning, peak_rates
from gpuplan_job.own_optimizer import configure_own, own_module

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytorch_lightning as pl
    from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
    from torch import nn

    from gpuplan_job.batch_growth import TrainingLayout
    from gpuplan_job.contract import TrainSpec, WorkloadSpec

_LOG_POSITIONS = 2
"""Arguments of `self.log` that people give by position: name and value."""


def module_of(
    network: nn.Module, workload: WorkloadSpec, train: TrainSpec, layout: TrainingLayout
) -> pl.LightningModule:
    """Return what Lightning trains: a LightningModule as it is, but for its optimizer and what it logs in validation.

    Raises:
        JobError: the module optimizes manually, or its optimizer does not follow a learning rate that can be set.
    """
    own = own_module(network) if is_lightning(network) else None
    module: Any = network if own else Classifier(network, workload.label_smoothing)
    configure = module.configure_optimizers
    if own:
        module.log = _exact_in_validation(module)

    def configured() -> Any:  # noqa: ANN401 - whatever Lightning takes
        ratios = None
        if workload.optimizer == OWN:
            if own is None:
                raise JobError("usage", "--optimizer own: the model configures no optimizer", "--optimizer sgd")
            result = configure_own(own, configure, train.learning_rate)
            if workload.schedule == OWN:
                return result
            optimizer = own.only(result)
            ratios = [rate / train.learning_rate for rate in peak_rates(optimizer)]
        elif workload.schedule == OWN:
            raise JobError("usage", "--schedule own goes with --optimizer own alone", "--schedule onecycle")
        else:
            optimizer = optim.build(workload, module, train.learning_rate)
        schedule = optim.schedule(
            workload, optimizer, train, layout.steps, ratios=ratios, following=_following(train, layout)
        )
        both: OptimizerLRSchedulerConfig = {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
        return both

    module.configure_optimizers = configured
    return cast("pl.LightningModule", module)


def _following(train: TrainSpec, layout: TrainingLayout) -> Callable[[int], float]:
    """Return what a step's learning rate is multiplied by: the share of its epoch, while the batch grows."""
    shares = train.lr_shares or [1.0] * len(layout.epochs)
    return lambda step: shares[layout.epoch_of(step)]


def _exact_in_validation(module: Any) -> Any:  # noqa: ANN401 - a LightningModule and its `log`
    """Return a `log` that reduces a validation's figures over the ranks, each sample counted once."""
    log = type(module).log.__get__(module)

    @wraps(log)
    def exact(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as Lightning's
        if module.trainer.validating and len(args) <= _LOG_POSITIONS and not kwargs.get("on_step"):
            kwargs.setdefault("sync_dist", True)
        log(*args, **kwargs)

    return exact
