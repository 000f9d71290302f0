"""`find_lr`: an LR range test of anyone's module on anyone's data, in this process, that leaves both as they were.

Called by users and by the Lightning callback. The loop, the rules and the transfer policies are those of gpuplan's own
jobs; it writes no file.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import torch

from gpuplan_job import sweep_design
from gpuplan_job.contract import BatchSpec, LrTarget, SweepAt, SweepSpec
from gpuplan_job.finder.errors import FindLrError
from gpuplan_job.finder.feed import Feed, loader_of, samples_in
from gpuplan_job.finder.found import FoundLr
from gpuplan_job.finder.given import (
    TrainerSettings,
    device_for,
    learner_for,
    moved,
    optimizer_for,
    precision_of,
)
from gpuplan_job.finder.isolation import Snapshot, preserved_loader, preserved_randomness
from gpuplan_job.finder.learner import Lightning, optimizer_name, peak_rates
from gpuplan_job.finder.ranks import Ranks
from gpuplan_job.finder.sweeps import Sweeps

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from gpuplan_job.contract import Progress
    from gpuplan_job.finder.learner import Plain


def find_lr(  # noqa: PLR0913 - each is one thing that a user may know better
    module: nn.Module,
    data: object,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    step: Callable[[nn.Module, Any], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    steps: int | None = None,
    max_epochs: int | None = None,
    trainer: Any = None,  # noqa: ANN401 - either Lightning's Trainer
    runs: int = sweep_design.RUNS,
    iterations: int | None = None,
    lr_min: float | None = None,
    lr_max: float | None = None,
    accumulate: int | None = None,
    precision: str | int | None = None,
    clip: float | None = None,
    device: str | torch.device = "auto",
    rule: str = sweep_design.RULE,
    gpus: int = 1,
    transfer: str | None = None,
    fixed: Literal["epochs", "steps"] = "epochs",
    noise_micro_batches: int | None = None,
    noise_burn_in: int = 0,
    batch_size: int | None = None,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> FoundLr:
    """Find the learning rate of a training that is about to start; no LR is a value too, with its reason.

    Every sweep starts from the weights and the optimizer state that the module comes with, so a fine-tuning is tested
    as it will run; order, augmentation and dropout differ by seed. Afterwards, an exception included, weights, buffers,
    optimizer, modes, attributes, gradients, random states and the loader are bit for bit as before.

    Args:
        module: A LightningModule with its own step and optimizer, or any module with `loss` or `step`, and `optimizer`.
        data: A LightningDataModule, a DataLoader or a list of batches.
        loss: Mean loss of (outputs, targets), where a batch is a pair of inputs and targets.
        step: Mean loss of (module, batch), for any other batch.
        optimizer: Optimizer over the module's parameters; its groups keep the ratios of their LRs.
        steps: Optimizer steps of the training (T) on one device; by default from `max_epochs` or `trainer`.
        max_epochs: Epochs of the training, where the loader has a length.
        trainer: Lightning's Trainer of the training: its length, accumulation, precision and clipping by norm.
        runs: Sweeps whose curves are averaged.
        iterations: Optimizer steps of a sweep; by default from T.
        lr_min: Lowest learning rate; by default from T.
        lr_max: Highest learning rate; by default from T.
        accumulate: Micro-batches per optimizer step.
        precision: fp32, bf16-mixed or 16-mixed.
        clip: Largest norm of the gradient.
        device: "auto" takes a GPU where there is one; the module goes back afterwards.
        rule: How to read the curve: a file of `gpuplan_job.rules`.
        gpus: GPUs of the training, each with this loader's batch.
        transfer: How to carry the LR over to them: a file of `gpuplan_job.transfer`.
        fixed: What of the training stays when its batch grows.
        noise_micro_batches: Micro-batches for the gradient noise scale; by default 16 if there are more GPUs.
        noise_burn_in: Optimizer steps at a tenth of the found LR before the noise scale is measured: for language
            models, whose noise scale is far too small at initialisation.
        batch_size: Samples of a micro-batch, where it cannot be read off a tensor.
        seed: Of the first sweep; each further one takes the next.
        on_progress: Told about every second.

    Raises:
        FindLrError: it cannot be done so; the message says what to pass instead.
        LookupError: there is no such rule or transfer policy.
    """
    ranks = Ranks.here()
    at_trainer = TrainerSettings(trainer)
    accumulation = accumulate or at_trainer.accumulation
    used = precision_of(precision if precision is not None else at_trainer.precision)
    with ExitStack() as stack:
        where = device_for(module, device)
        stack.enter_context(preserved_randomness(cuda=where.type == "cuda"))
        stack.enter_context(torch.enable_grad())
        loader = loader_of(data)
        stack.enter_context(preserved_loader(loader))
        size = batch_size or _batch_size(loader)
        feed = Feed(loader, size)
        length = _training_steps(steps, max_epochs, at_trainer, feed, accumulation)
        learner = learner_for(module, data, loss, step)
        stack.enter_context(learner.attached(length))
        snapshot = Snapshot(module)
        stack.callback(snapshot.restore)
        chosen = optimizer_for(learner, optimizer)
        snapshot.add(chosen)
        start = moved(snapshot, chosen, where, stack)
        target = LrTarget(
            rule=rule,
            transfer=transfer or (sweep_design.POLICIES[fixed] if gpus > 1 else "none"),
            global_batch=size * ranks.world_size * accumulation * gpus,
            steps=length if fixed == "steps" else max(1, math.ceil(length / gpus)),
            fixed=fixed,
        )
        low, high = sweep_design.lr_range(optimizer_name(chosen), float(chosen.param_groups[0].get("momentum", 0)))
        spec = SweepSpec(
            runs=runs,
            iterations=iterations or sweep_design.iterations(length),
            lr_min=lr_min or low,
            lr_max=lr_max or high,
            reference_steps=length,
            noise_micro_batches=_noise_micro_batches(noise_micro_batches, gpus, ranks),
            target=target,
            check=_check(target, size, accumulation, gpus),
        )
        _require_sweep(spec)
        sweeps = Sweeps(
            learner=learner,
            optimizer=chosen,
            shares=_shares(learner, chosen),
            feed=feed,
            snapshot=start,
            spec=spec,
            batch=BatchSpec(size, ranks.world_size, accumulation),
            precision=used,
            device=where,
            seed=seed,
            clip=clip if clip is not None else at_trainer.clip,
            ranks=ranks,
            on_progress=on_progress or (lambda _: None),
        )
        result = sweeps.result(noise_burn_in)
    return FoundLr(
        result.decision, result, tuple(sweeps.shares), f"{type(module).__name__}, a training of {length:,} steps"
    )


def _batch_size(loader: Any) -> int:  # noqa: ANN401 - anything that can be iterated
    first = next(iter(loader), None)
    if first is None:
        raise FindLrError("the loader is empty", "check its data set, its batch size and drop_last")
    size = samples_in(first)
    if size is None:
        raise FindLrError(f"a batch of type {type(first).__name__} does not tell its size", "pass batch_size=")
    return size


def _training_steps(
    steps: int | None, max_epochs: int | None, trainer: TrainerSettings, feed: Feed, accumulation: int
) -> int:
    """Return T at this loader's batch on one device (or on the ranks that are here)."""
    if steps is None and max_epochs is None and trainer.max_steps > 0:
        steps = trainer.max_steps
    epochs = max_epochs or trainer.max_epochs
    if steps is None and epochs is not None and epochs > 0 and feed.batches is not None:
        steps = epochs * math.ceil(feed.batches / accumulation)
    if steps is None:
        raise FindLrError(
            "how long the training is cannot be told, and the learning rate depends on it",
            "pass steps=, its optimizer steps, or max_epochs= with a loader that has a length",
        )
    if steps < 1:
        raise FindLrError(f"a training of {steps} steps", "pass steps=, its optimizer steps")
    return steps


def _shares(learner: Lightning | Plain, optimizer: torch.optim.Optimizer) -> list[float]:
    """Return each group's LR over the learning rate: the one that the module states, else that of the fastest group."""
    rates = peak_rates(optimizer)
    if max(rates, default=0.0) <= 0:
        raise FindLrError("the optimizer's learning rates are all 0", "configure it with any positive learning rate")
    stated = learner.stated_rate() if isinstance(learner, Lightning) else None
    drives = stated is not None and any(math.isclose(stated[2], rate, rel_tol=1e-6) for rate in rates)
    reference = stated[2] if stated is not None and drives else max(rates)
    return [rate / reference for rate in rates]


def _noise_micro_batches(asked: int | None, gpus: int, ranks: Ranks) -> int:
    if asked is not None:
        return asked
    return sweep_design.NOISE_MICRO_BATCHES if gpus > 1 and ranks.world_size == 1 else 0


def _check(target: LrTarget, size: int, accumulation: int, gpus: int) -> SweepAt | None:
    """Return the sweeps at the training's own batch, where the transfer policy goes by them."""
    if target.transfer != "accumulate" or gpus == 1:
        return None
    return SweepAt(
        batch=BatchSpec(size, 1, accumulation * gpus),
        runs=sweep_design.CHECK_RUNS,
        iterations=sweep_design.iterations(target.steps),
        reference_steps=target.steps,
    )


def _require_sweep(spec: SweepSpec) -> None:
    if spec.runs < 1 or spec.iterations <= 1 or not 0 < spec.lr_min < spec.lr_max:
        raise FindLrError(
            f"{spec.runs} sweeps of {spec.iterations} steps from {spec.lr_min:g} to {spec.lr_max:g}",
            "ask for one or more runs, two or more iterations and a rising range",
        )
