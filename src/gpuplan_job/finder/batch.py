"""`find_batch`: the largest safe batch of anyone's training in this process, and the fastest, all left as it was.

Called by users. The search, its tries and its rules are those of gpuplan's own jobs; it writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from gpuplan_job import batch_search, runtime
from gpuplan_job.batch_trial import Training, Trials, reserved_gib
from gpuplan_job.contract import BatchSearchSpec
from gpuplan_job.device_memory import DeviceMemory
from gpuplan_job.finder.errors import FindLrError, NoBatchError
from gpuplan_job.finder.feed import loader_of, samples_in
from gpuplan_job.finder.given import (
    TrainerSettings,
    device_for,
    learner_for,
    moved,
    optimizer_for,
    precision_of,
)
from gpuplan_job.finder.isolation import Snapshot, preserved_loader, preserved_randomness
from gpuplan_job.finder.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from gpuplan_job.contract import BatchTrial

_START = 8
_STEPS = 1000
"""What a module that asks its trainer is told of the training's length: no memory depends on it."""


@dataclass(frozen=True)
class FoundBatch:
    """The batches that a search names, with every try."""

    batch: int
    """Samples per GPU and micro-batch to train with."""
    largest: int
    """The largest safe batch."""
    fastest: int
    """The safe batch with most samples a second."""
    trials: tuple[BatchTrial, ...]
    capacity_gib: float
    search: BatchSearchSpec

    def __str__(self) -> str:
        """Say it in one line."""
        share = f"{100 * self.search.memory_share:.3g} % of {self.capacity_gib:.3g} GiB"
        return f"batch {self.batch} (largest within {share}: {self.largest}, fastest per sample: {self.fastest})"


def find_batch(  # noqa: PLR0913 - each is one thing that a user may know better
    module: nn.Module,
    data: object,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    step: Callable[[nn.Module, Any], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    trainer: Any = None,  # noqa: ANN401 - either Lightning's Trainer
    start: int = _START,
    largest: int | None = None,
    memory_share: float = 0.8,
    memory_gib: float | None = None,
    gpus: int = 1,
    accumulate: int | None = None,
    precision: str | int | None = None,
    clip: float | None = None,
    device: str | torch.device = "auto",
    trial_seconds: float = 20.0,
    seed: int = 0,
) -> FoundBatch:
    """Find the largest batch that a training can take on this device with room to spare, by real steps of it.

    Afterwards, an exception included, weights, buffers, optimizer, modes, attributes, gradients, random states and the
    loader are bit for bit as before. On a CPU no limit is set, because a library that is refused memory may end the
    process: a try whose peak passes the capacity counts as out of memory afterwards.

    Args:
        module: A LightningModule with its own step and optimizer, or any module with `loss` or `step`, and `optimizer`.
        data: A LightningDataModule, a DataLoader or a list of batches; batches of other sizes are made of its samples.
        loss: Mean loss of (outputs, targets), where a batch is a pair of inputs and targets.
        step: Mean loss of (module, batch), for any other batch.
        optimizer: Optimizer over the module's parameters.
        trainer: Lightning's Trainer of the training: its accumulation, precision and clipping by norm.
        start: Batch to start from.
        largest: Batch that is not passed; by default one with which the data fill one optimizer step.
        memory_share: Share of the device's memory that a safe batch stays within.
        memory_gib: Memory to take for all there is, where there is more; by default the GPU's, half of a machine's.
        gpus: GPUs of the training: with several, DDP's buckets take memory too.
        accumulate: Micro-batches per optimizer step.
        precision: fp32, bf16-mixed or 16-mixed.
        clip: Largest norm of the gradient.
        device: "auto" takes a GPU where there is one; the module goes back afterwards.
        trial_seconds: Seconds that the steps of one try may take.
        seed: Of order, augmentation and dropout.

    Raises:
        FindLrError: it cannot be done so; the message says what to pass instead.
        NoBatchError: not even the smallest batch is safe.
    """
    if Ranks.here().world_size > 1:
        raise FindLrError("several processes share this search", "find the batch in one process, with gpus=")
    settings = TrainerSettings(trainer)
    used = precision_of(precision if precision is not None else settings.precision)
    accumulation = accumulate or settings.accumulation
    with ExitStack() as stack:
        where = device_for(module, device)
        stack.enter_context(preserved_randomness(cuda=where.type == "cuda"))
        stack.enter_context(torch.enable_grad())
        loader = loader_of(data)
        stack.enter_context(preserved_loader(loader))
        runtime.seed_everything(seed)
        samples = _Samples(loader)
        learner = learner_for(module, data, loss, step)
        stack.enter_context(learner.attached(_STEPS))
        memory = DeviceMemory(where, memory_gib, expendable=False)
        stack.callback(memory.release)
        snapshot = Snapshot(module)
        stack.callback(snapshot.restore)
        chosen = optimizer_for(learner, optimizer)
        snapshot.add(chosen)
        origin = moved(snapshot, chosen, where, stack)
        spec = BatchSearchSpec(
            largest=min(largest or samples.most, samples.most // (gpus * accumulation)) or 1,
            memory_share=memory_share,
            world_size=gpus,
            accumulation=accumulation,
            trial_seconds=trial_seconds,
            memory_gib=memory_gib,
        )
        effective = runtime.effective_precision(used, where)
        reserved = reserved_gib(module, where, gpus)
        limit = clip if clip is not None else settings.clip

        def training(batch: int) -> Training:
            if not module.training:
                module.train()
            runtime.seed_everything(seed)
            micro_batch = samples.batch(batch)

            def mean_loss(index: int) -> Tensor:
                on_device = learner.moved(micro_batch, where)
                with runtime.autocast(used, where):
                    return learner.loss_of(on_device, index)

            return Training(mean_loss, chosen, effective, limit, reserved)

        origin.rewind()
        memory.release()
        trials = Trials(memory, training, accumulation, trial_seconds, origin.rewind)
        search = batch_search.Search(spec, start, memory.capacity_gib)
        choice = batch_search.run(search, trials.trial)
    last = search.trials[-1]
    if choice is None and last.outcome == "too-slow":
        raise NoBatchError(f"a few steps of batch {last.batch} take longer than {trial_seconds:.3g} s: trial_seconds=")
    if choice is None:
        raise NoBatchError(
            f"not even batch {last.batch} leaves {100 * (1 - memory_share):.3g} % of "
            f"{memory.capacity_gib:.3g} GiB free: a smaller model or sample, bf16-mixed, or a GPU with more memory"
        )
    return FoundBatch(choice.chosen, choice.largest, choice.fastest, tuple(search.trials), memory.capacity_gib, spec)


class _Samples:
    """Batches of any size from a loader: by its own collation where its data set can be indexed, else by joining."""

    def __init__(self, loader: Any) -> None:  # noqa: ANN401 - anything that can be iterated
        self._loader = loader
        indexed = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        self._indexed = indexed and hasattr(loader.dataset, "__len__") and loader.collate_fn is not None
        self._kept: list[Any] = []
        self._coming: Iterator[Any] = iter(()) if self._indexed else iter(loader)
        if self._indexed and loader.batch_size is None and loader.batch_sampler is None:
            raise FindLrError("the loader makes no batches of its samples", "pass a DataLoader with a batch_size")
        self.most: int = len(loader.dataset) if self._indexed else self._count()
        if self.most < 1:
            raise FindLrError("the loader is empty", "check its data set, its batch size and drop_last")

    def batch(self, size: int) -> Any:  # noqa: ANN401 - a batch is what the loader gives
        """Return a batch of that many samples."""
        if self._indexed:
            drawn = torch.randperm(self.most)[:size].tolist()
            return self._loader.collate_fn([self._loader.dataset[index] for index in drawn])
        while sum(samples_in(batch) or 0 for batch in self._kept) < size:
            self._kept.append(next(self._coming))
        return _joined(self._kept, size)

    def _count(self) -> int:
        """Return how many samples an epoch has, by going through it once where nothing tells."""
        return sum(samples_in(batch) or 0 for batch in self._loader)


def _joined(batches: list[Any], size: int) -> Any:  # noqa: ANN401 - as above
    """Return the first `size` samples of several batches as one.

    Raises:
        FindLrError: they cannot be joined.
    """
    first = batches[0]
    if isinstance(first, torch.Tensor):
        if any(part.shape[1:] != first.shape[1:] for part in batches):
            raise FindLrError("the batches differ in shape and cannot be joined", "pass a DataLoader with a collate_fn")
        return torch.cat(batches)[:size]
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in batches], size) for key in first}
    if isinstance(first, Sequence) and not isinstance(first, str | bytes):
        joined = [_joined(list(parts), size) for parts in zip(*batches, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)  # type: ignore[call-arg] # a tuple or a list
    return first
