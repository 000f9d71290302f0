"""Range tests of many lengths on the tasks, and the landmarks that rules read off them: what constants are fitted on.

The sweeps are kept in `benchmarks/data/lr_sweeps.json.xz` and run anew by `lr_regret.py --measure-sweeps`.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpuplan_job.contract import Curve
from gpuplan_job.curve import smooth
from gpuplan_job.rules import steepest, valley
from lr.finder import FIRST_SEED, spec, sweep
from lr.tasks import TASKS, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpuplan_job.curve import SmoothedCurve

FILE = Path(__file__).parent.parent / "data" / "lr_sweeps.json.xz"
LANDMARKS = ("edge", "minimum", "descended", "steepest", "valley")
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Lengths of the sweeps, n / T."""
_ALWAYS = (60, 100, 200)
_LEAST = 30
_SWEEPS, _AVERAGED = 5, 3
"""Of five sweeps all ten threes are read: averages of three are what a range test is judged by."""


@dataclass(frozen=True)
class Reading:
    """What averaged sweeps of `iterations` steps show; learning rates."""

    task: str
    iterations: int
    reference_steps: int
    landmarks: dict[str, float]
    divergence: float | None

    @property
    def group(self) -> str:
        """The task without its optimizer."""
        return self.task.rpartition("/")[0]

    @property
    def optimizer(self) -> str:
        """The task's optimizer."""
        return self.task.rpartition("/")[2]

    @property
    def share(self) -> float:
        """The ratio n / T."""
        return self.iterations / self.reference_steps


def reading(task: Task, iterations: int, curve: SmoothedCurve) -> Reading:
    """Return the landmarks of a smoothed curve."""
    return Reading(
        task=task.name,
        iterations=iterations,
        reference_steps=task.steps(),
        landmarks={
            "edge": curve.edge,
            "minimum": curve.lr_at_minimum,
            "descended": curve.descended,
            "steepest": steepest.landmark(curve),
            "valley": valley.landmark(curve),
        },
        divergence=curve.divergence_lr,
    )


def measure(task: Task) -> list[dict[str, Any]]:
    """Run sweeps of every length on a task and return what is kept of each."""
    lengths = sorted({max(_LEAST, round(task.steps() * share)) for share in SHARES} | set(_ALWAYS))
    return [
        _kept(task, iterations, sweep(task, spec(task, iterations=iterations), FIRST_SEED + run))
        for iterations in lengths
        for run in range(_SWEEPS)
    ]


def stored() -> Iterator[Reading]:
    """Yield the readings of all threes among the sweeps of a task and length on file."""
    known = {task.name: task for task in TASKS}
    curves: dict[tuple[str, int], list[Curve]] = defaultdict(list)
    for row in json.loads(lzma.decompress(FILE.read_bytes())):
        if row["task"] in known:
            curves[row["task"], row["iterations"]].append(_curve(known[row["task"]], row))
    for (name, iterations), sweeps in curves.items():
        for three in combinations(sweeps, _AVERAGED):
            try:
                yield reading(known[name], iterations, smooth(three))
            except ValueError:  # a sweep that ended at once
                continue


def write(rows: Iterable[dict[str, Any]]) -> None:
    """Replace the sweeps on file."""
    FILE.write_bytes(lzma.compress(json.dumps(list(rows), separators=(",", ":")).encode()))


def _kept(task: Task, iterations: int, curve: Curve) -> dict[str, Any]:
    return {
        "task": task.name,
        "iterations": iterations,
        "seed": curve.seed,
        "losses": [float(f"{loss:.4g}") for loss in curve.losses],
        "stop_reason": curve.stop_reason,
        "stopped_at_lr": curve.stopped_at_lr,
    }


def _curve(task: Task, row: dict[str, Any]) -> Curve:
    one = spec(task, iterations=row["iterations"])
    ratio = (one.lr_max / one.lr_min) ** (1 / (one.iterations - 1))
    rates = [one.lr_min * ratio**step for step in range(len(row["losses"]))]
    return Curve(rates, cast("list[float]", row["losses"]), row["stop_reason"], row["stopped_at_lr"], row["seed"])
