"""The sweeps of one search: each from the state the module came with, then the noise scale, then the decision.

Called by `finder.search`, which restores the state afterwards.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from gpuplan_job import noise, optim, runtime
from gpuplan_job.climb import Climb, Subject
from gpuplan_job.contract import UNDECIDED, BatchSweeps, LrResult, WorkloadSpec
from gpuplan_job.decision import decide
from gpuplan_job.finder.learner import optimizer_name
from gpuplan_job.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import Tensor

    from gpuplan_job.contract import BatchSpec, Curve, NoiseScale, Precision, Progress, SweepAt, SweepSpec
    from gpuplan_job.finder.feed import Feed
    from gpuplan_job.finder.isolation import Snapshot
    from gpuplan_job.finder.learner import Lightning, Plain
    from gpuplan_job.finder.ranks import Ranks

_BURN_IN_SHARE = 0.1
"""Of the found LR: low enough to be safe while the noise scale is still rising."""


@dataclass(frozen=True)
class Sweeps:
    """All that a search works with."""

    learner: Lightning | Plain
    optimizer: torch.optim.Optimizer
    shares: Sequence[float]
    feed: Feed
    snapshot: Snapshot
    spec: SweepSpec
    batch: BatchSpec
    precision: Precision
    device: torch.device
    seed: int
    clip: float | None
    ranks: Ranks
    on_progress: Callable[[Progress], None]

    def result(self, burn_in: int) -> LrResult:
        """Run everything, and return the result that holds on every rank."""
        pace = Pace("lr-find", self.spec.optimizer_steps, self.batch.global_batch, time.perf_counter, self.on_progress)
        curves = self._curves(pace, "sweep", self.spec.own(self.batch), 0)
        measured = pace.measured(runtime.peak_gib(self.device), runtime.device_name(self.device))
        check = None
        if self.spec.check is not None:
            phase = f"check at batch {self.spec.check.batch.global_batch}, sweep"
            done = self.spec.runs * self.spec.iterations
            check = BatchSweeps(self.spec.check, self._curves(pace, phase, self.spec.check, done))
        result = LrResult(
            run_id="python",
            step="lr-find",
            attempt=1,
            input_sha256="",
            workload=self._workload(),
            sweep=self.spec,
            batch=self.batch,
            precision=runtime.effective_precision(self.precision, self.device),
            curves=curves,
            noise_scale=None,
            check=check,
            compared=[],
            decision=UNDECIDED,
            measured=measured,
            versions=runtime.versions(),
        )
        result = replace(result, noise_scale=self._noise_scale(burn_in, decide(result).learning_rate))
        result = replace(result, decision=decide(result))
        return LrResult.from_json(self.ranks.told(result.to_json()))

    def _curves(self, pace: Pace, phase: str, at: SweepAt, done: int) -> list[Curve]:
        climb = Climb(replace(self.spec, iterations=at.iterations), pace)
        curves = []
        for run in range(at.runs):
            seed = self.seed + run
            pace.begin(f"{phase} {run + 1} of {at.runs}", done + run * at.iterations, timed=done == 0)
            subject = self._fresh(seed)
            with closing(self.feed.steps(at.batch.accumulation, seed)) as steps:
                curves.append(climb.curve(subject, steps, seed))
        return curves

    def _fresh(self, seed: int) -> _Trained:
        """Return the module and its optimizer as they came, in training mode, with everything random set by seed."""
        self.snapshot.rewind()
        module = self.learner.module
        if not module.training:
            module.train()  # as a whole; frozen parts of one that is in training mode stay as their owner set them
        # Ranks draw apart, as in a training: dropout must not repeat on each.
        draws = runtime.derived_seed(seed, "draw", self.ranks.rank) if self.ranks.world_size > 1 else seed
        runtime.seed_everything(draws)
        return _Trained(self)

    def _noise_scale(self, burn_in: int, found: float | None) -> NoiseScale | None:
        """Measure after the sweeps, because a burn-in needs the LR that they gave; None where they gave none."""
        if found is None or self.ranks.world_size > 1 or self.spec.noise_micro_batches < noise.LEAST_MICRO_BATCHES:
            return None
        subject = self._fresh(self.seed)
        if burn_in > 0:
            subject.set_learning_rate(found * _BURN_IN_SHARE)
            with closing(self.feed.steps(self.batch.accumulation, self.seed)) as steps:
                for batches in islice(steps, burn_in):
                    subject.step(batches)
        # An order of its own, of one epoch: no sample may be in two micro-batches.
        batches = list(islice(self.feed.full_batches(self.seed + self.spec.runs), self.spec.noise_micro_batches))
        if len(batches) < noise.LEAST_MICRO_BATCHES:
            return None
        losses = ((self.batch.per_gpu, partial(subject.loss, batch, index)) for index, batch in enumerate(batches))
        return noise.measure_losses(self.learner.module, losses, self.precision, self.device)

    def _workload(self) -> WorkloadSpec:
        """Describe the training in the terms that rules and policies know: of optimizers SGD and the adaptive ones."""
        group = self.optimizer.param_groups[0]
        return WorkloadSpec(
            model=type(self.learner.module).__name__,
            data=type(self.feed.loader).__name__,
            optimizer=optimizer_name(self.optimizer),
            momentum=float(group.get("momentum", 0.0)),
            weight_decay=float(group.get("weight_decay", 0.0)),
            schedule="constant",
            label_smoothing=0.0,
            epochs=1,
            precision=self.precision,
            seed=self.seed,
            workers=int(getattr(self.feed.loader, "num_workers", 0)),
        )


class _Trained(Subject[Any]):
    """A user's module under its own loss."""

    def __init__(self, sweeps: Sweeps) -> None:
        super().__init__(sweeps.optimizer, runtime.grad_scaler(sweeps.precision, sweeps.device), shares=sweeps.shares)
        self.sweeps = sweeps

    def loss(self, batch: Any, index: int) -> Tensor:  # noqa: ANN401 - a batch is what the loader gives
        """Return the mean loss of a micro-batch."""
        moved = self.sweeps.learner.moved(batch, self.sweeps.device)
        with runtime.autocast(self.sweeps.precision, self.sweeps.device):
            return self.sweeps.learner.loss_of(moved, index)

    def losses(self, batches: Sequence[Any]) -> Iterator[Tensor]:
        """Yield each micro-batch's mean loss over their number, as Lightning does."""
        for index, batch in enumerate(batches):
            yield self.loss(batch, index) / len(batches)

    def gradients_ready(self) -> None:
        """Average over the ranks, then clip."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.sweeps.ranks.average_gradients(parameters)
        optim.clip(self.optimizer, self.scaler, self.sweeps.clip)

    def agreed(self, loss: float, *, taken: bool) -> tuple[float, bool]:
        """Return loss and outcome as rank 0 sees them."""
        return self.sweeps.ranks.agreed(loss, self.sweeps.device, taken=taken)
