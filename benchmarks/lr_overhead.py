"""What a learning-rate range test of 100 steps costs beside a bare loop of the same 100 steps, and what peers' cost.

    python benchmarks/lr_overhead.py                 # peers that are installed (see README.md)
    python benchmarks/lr_overhead.py --markdown > benchmarks/results/lr-overhead-$(date -u +%F).md

Every way trains the same network on the same batches with the same optimizer over a range that does not diverge. Prints
ratios and judges nothing: seconds are the machine's. Needs the `local` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from statistics import median
from typing import cast

import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gpuplan_job import lr_find
from gpuplan_job.contract import BatchSpec, JobInput, LrTarget, SweepSpec, WorkloadSpec
from gpuplan_job.data._in_memory import InMemory
from gpuplan_job.loaders import DataSets

STEPS = 100
BATCH = 32
CLASSES = 10
LOW, HIGH = 1e-6, 1e-3
"""Rates at which nothing diverges, so that every way does all its steps."""
MICRO_BATCHES = 16
CPU = torch.device("cpu")
METHOD = """\
{steps} optimizer steps at batch {batch}, SGD with momentum 0.9, from LR {low:g} to {high:g}, where nothing diverges:
every way takes all its steps, which is checked. Data lie in memory; each way loads them in the main process with the
loader it would use. Making the network is in every way's time, for gpuplan makes a fresh one for each sweep. A round
runs every way once, in an order that turns by one each round, in one process with one thread. A ratio is a way's time
over that of the bare loop in the same round; shown is the median of {rounds} rounds (least to most), of the process's
CPU time, which other processes hardly touch, and of wall time.

- `bare loop`: zero_grad, forward, backward, step, the loss read each step; the LR set each step; torch's DataLoader.
- `bare loop, again`: the same once more: how far the machine itself is from 1.
- `gpuplan`: `lr_find.range_test` with one run, as the job calls it. `noise scale`: with {micro} micro-batches for it.
- peers: torch-lr-finder `range_test`, Lightning `Tuner.lr_find` (it writes a checkpoint), fastai `lr_find` (it does
  too); without plots, progress bars, loggers and early stop, from the same fresh network."""
Way = Callable[["Case"], int]
"""Runs a range test on a fresh network and returns the steps it recorded."""


@dataclass(frozen=True)
class Case:
    """A network and its data, the same for every way."""

    name: str
    build: Callable[[], nn.Module]
    images: torch.Tensor
    labels: torch.Tensor

    def loader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Return the loader that a bare loop and the peers use: shuffled, full batches only."""
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=BATCH, shuffle=True, drop_last=True)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer at the lowest rate."""
        return torch.optim.SGD(network.parameters(), lr=LOW, momentum=0.9)


def small_cnn() -> nn.Module:
    """Return two convolutions with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18."""
    return cast("nn.Module", torchvision.models.resnet18(num_classes=CLASSES))


def cases() -> list[Case]:
    """Return the networks with their data: enough samples for the micro-batches, not for all steps."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1024, 3, 32, 32, generator=generator)
    labels = torch.randint(0, CLASSES, (1024,), generator=generator)
    return [
        Case("small CNN with BatchNorm", small_cnn, images, labels),
        Case("ResNet-18, 32 px", resnet18, images, labels),
    ]


def bare_loop(case: Case) -> int:
    """Train over the rates with nothing around it; return the number of steps."""
    network = case.build().train()
    optimizer = case.optimizer(network)
    losses: list[float] = []
    while True:
        for images, labels in case.loader():
            rate = LOW * (HIGH / LOW) ** (len(losses) / (STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == STEPS:
                return STEPS


def gpuplan(case: Case, micro_batches: int = 0) -> int:
    """Run the job's range test of one sweep; return the points of its curve."""
    job = JobInput(
        run_id="run",
        step="lr-find",
        attempt=1,
        plan_id="plan",
        workload=WorkloadSpec("resnet18", "digits", "sgd", 0.9, 0.0, "onecycle", 0.0, 1, "fp32", 0, 0),
        batch=BatchSpec(BATCH, 1, 1),
        device="cpu",
        sweep=SweepSpec(1, STEPS, LOW, HIGH, 1000, micro_batches, LrTarget("edge", "none", BATCH, 1000)),
    )
    held = InMemory(case.images, case.labels)
    data = DataSets(held, held)
    result = lr_find.range_test(job, "0" * 64, case.build, data, CPU, lambda _progress: None)
    if micro_batches and (result.noise_scale is None or result.noise_scale.micro_batches != micro_batches):
        raise RuntimeError("the noise scale was not measured")
    return len(result.curves[0].losses)


def gpuplan_with_noise_scale(case: Case) -> int:
    """Do as `gpuplan` with the gradient noise scale measured first."""
    return gpuplan(case, MICRO_BATCHES)


def torch_lr_finder(case: Case) -> int:
    """Run torch-lr-finder's range test; return its steps."""
    from torch_lr_finder import LRFinder

    network = case.build()
    finder = LRFinder(network, case.optimizer(network), nn.CrossEntropyLoss())
    finder.range_test(case.loader(), end_lr=HIGH, num_iter=STEPS, diverge_th=1e9)
    finder.reset()
    return len(finder.history["loss"])


def lightning(case: Case) -> int:
    """Run Lightning's range test; return its steps."""
    import pytorch_lightning
    from pytorch_lightning.tuner.tuning import Tuner

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.learning_rate = case.build(), LOW

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _index: int) -> torch.Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return case.optimizer(self.network)

    with tempfile.TemporaryDirectory() as folder:
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            max_epochs=1000,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        found = Tuner(trainer).lr_find(
            Module(),
            case.loader(),
            min_lr=LOW,
            max_lr=HIGH,
            num_training=STEPS,
            early_stop_threshold=None,
            update_attr=False,
        )
    return len(found.results["loss"]) if found is not None else 0


def fastai(case: Case) -> int:
    """Run fastai's range test; return its steps."""
    import fastai.callback.schedule  # noqa: F401 - adds lr_find to Learner
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    def optimizer(parameters: object, **options: float) -> OptimWrapper:
        return OptimWrapper(parameters, torch.optim.SGD, momentum=0.9, **options)

    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            DataLoaders(case.loader(), case.loader()),
            case.build(),
            loss_func=nn.CrossEntropyLoss(),
            opt_func=optimizer,
            path=folder,
        )
        with learner.no_bar():
            learner.lr_find(start_lr=LOW, end_lr=HIGH, num_it=STEPS, stop_div=False, show_plot=False)
        return len(learner.recorder.losses)


OURS: dict[str, Way] = {
    "bare loop": bare_loop,
    "bare loop, again": bare_loop,
    "gpuplan": gpuplan,
    "gpuplan with noise scale": gpuplan_with_noise_scale,
}
PEERS: dict[str, tuple[str, str, Way]] = {
    "torch-lr-finder": ("torch_lr_finder", "torch-lr-finder", torch_lr_finder),
    "Lightning": ("pytorch_lightning", "pytorch-lightning", lightning),
    "fastai": ("fastai", "fastai", fastai),
}
AIMS = {"gpuplan": 1.1, "gpuplan with noise scale": 1.3}


@dataclass(frozen=True)
class Times:
    """Seconds of one run of a way."""

    cpu: float
    wall: float


def timed(way: Way, case: Case) -> Times:
    """Run a way once.

    Raises:
        RuntimeError: it did not take all its steps.
    """
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cpu, wall = time.process_time(), time.perf_counter()
        steps = way(case)
        times = Times(time.process_time() - cpu, time.perf_counter() - wall)
    # fastai takes one step more before it looks whether it is done.
    if steps not in (STEPS, STEPS + 1):
        raise RuntimeError(f"{way.__name__} recorded {steps} steps, not {STEPS}")
    return times


def measured(case: Case, ways: dict[str, Way], rounds: int) -> dict[str, list[Times]]:
    """Run every way once a round, after one round that is not counted, in turning order."""
    found: dict[str, list[Times]] = {label: [] for label in ways}
    for number in range(-1, rounds):
        labels = list(ways)
        turn = number % len(labels)
        for label in labels[turn:] + labels[:turn]:
            times = timed(ways[label], case)
            if number >= 0:
                found[label].append(times)
    return found


def ratio(label: str, found: dict[str, list[Times]], of: Callable[[Times], float]) -> str:
    """Return a way's time over the bare loop's, round by round: median (least to most)."""
    ratios = [of(one) / of(bare) for one, bare in zip(found[label], found["bare loop"], strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", type=int, help="number of the one network to measure, from 0")
    parser.add_argument("--markdown", action="store_true", help="print a document for benchmarks/results")
    parser.add_argument("--note", default="", help="a sentence about the machine for the document")
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("MPLBACKEND", "agg")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    here = {label: peer for label, peer in PEERS.items() if importlib.util.find_spec(peer[0]) is not None}
    ways = OURS | {label: way for label, (_, _, way) in here.items()}
    if given.markdown:
        print(f"# What a learning-rate range test costs, {datetime.now(UTC).date()}\n")
        print(METHOD.format(steps=STEPS, batch=BATCH, low=LOW, high=HIGH, rounds=given.rounds, micro=MICRO_BATCHES))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ["torch", *(peer[1] for peer in here.values())])
    print(f"\n{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}, {versions}.")
    print(f"{given.note}\n")
    chosen = cases() if given.case is None else [cases()[given.case]]
    for case in chosen:
        found = measured(case, ways, given.rounds)
        step = median(times.cpu for times in found["bare loop"]) / STEPS
        print(f"{case.name}, {step * 1000:.0f} ms of CPU a step in the bare loop:\n", flush=True)
        print("| way | CPU time / bare loop | wall time / bare loop | aim |\n| --- | --- | --- | --- |")
        for label in ways:
            aim = f"{AIMS[label]:.1f}" if label in AIMS else ""
            cpu, wall = ratio(label, found, lambda t: t.cpu), ratio(label, found, lambda t: t.wall)
            print(f"| {label} | {cpu} | {wall} | {aim} |")
        for label in PEERS:
            if label not in here:
                print(f"| {label} | not installed | | |")
        print(f"\nLoad average {os.getloadavg()[0]:.1f} at the end.\n", flush=True)


if __name__ == "__main__":
    main()
