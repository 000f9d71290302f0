"""The truth of `lr_regret.py`: validation losses of trainings over a grid of learning rates, several seeds each.

Kept in `benchmarks/data/lr_truth.csv` and measured anew by `lr_regret.py --measure-truth`, which takes an hour on two
cores. It must not know of any finder.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lr.tasks import TASKS, Task
from lr.training import final_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parent.parent / "data" / "lr_truth.csv"
GPUS = (1, 2, 4, 8)
PER_DECADE = 5
SEEDS = {"digits": 16, "digits-noisy": 4, "mnist": 3, "mnist-long": 3}
"""More where the loss is smallest: there one image more or less counts."""
_START = {"sgd": range(-9, 0), "adamw": range(-14, -6)}
"""Grid points, LR = 10^(point / 5), to begin with; more are added until both ends are well above the best."""
_WELL_ABOVE = 1.5
_LIMITS = (-30, 10)


@dataclass(frozen=True)
class Unit:
    """One curve of the truth: a task on so many GPUs, at fixed epochs or at the steps of one GPU."""

    task: Task
    gpus: int
    fixed: str = "epochs"

    def loss(self, learning_rate: float, seed: int) -> float:
        """Return the final validation loss of one training."""
        steps = self.task.steps() if self.fixed == "steps" else None
        return final_loss(self.task, learning_rate, self.gpus, seed, steps)


def units() -> list[Unit]:
    """Return all curves: every task on 1, 2, 4 and 8 GPUs, and the steps fixed on the digits."""
    steps = [Unit(task, 4, "steps") for task in TASKS if task.data == "digits-noisy" and task.network != "resnet"]
    return [Unit(task, gpus) for task in TASKS for gpus in GPUS] + steps


def measure(unit: Unit) -> Iterator[dict[str, object]]:
    """Train over the grid and yield a row for each training."""
    means: dict[int, float] = {}

    def train(point: int) -> Iterator[dict[str, object]]:
        losses = []
        for seed in range(SEEDS[unit.task.data]):
            loss = unit.loss(10 ** (point / PER_DECADE), seed)
            losses.append(loss)
            yield {
                "task": unit.task.name,
                "gpus": unit.gpus,
                "fixed": unit.fixed,
                "point": point,
                "seed": seed,
                "loss": f"{loss:.6g}",
            }
        means[point] = statistics.fmean(losses)

    for point in _START[unit.task.optimizer]:
        yield from train(point)
    while True:
        level = _WELL_ABOVE * min(means.values())
        low, high = min(means), max(means)
        if means[low] <= level and low > _LIMITS[0]:
            yield from train(low - 1)
        elif means[high] <= level and high < _LIMITS[1]:
            yield from train(high + 1)
        else:
            return


class Landscape:
    """The mean final loss of a unit over the learning rate, and with it the regret of any learning rate."""

    def __init__(self, losses: dict[int, list[float]]) -> None:
        self.points = sorted(losses)
        self.means = {point: statistics.fmean(losses[point]) for point in self.points}
        self.best = min(self.means.values())
        self.best_lr = 10 ** (min(self.means, key=self.means.__getitem__) / PER_DECADE)

    def regret(self, learning_rate: float) -> float:
        """Return loss / best - 1, the log of the loss interpolated linearly over log LR; held constant outside."""
        place = math.log10(learning_rate) * PER_DECADE
        place = min(max(place, self.points[0]), self.points[-1])
        left = min(math.floor(place), self.points[-1] - 1)
        low, high = self.means[left], self.means[left + 1]
        if not math.isfinite(low + high):
            return 0.0 if place == left and math.isfinite(low) else math.inf
        return math.exp((left + 1 - place) * math.log(low) + (place - left) * math.log(high)) / self.best - 1


@cache
def landscapes() -> dict[tuple[str, int, str], Landscape]:
    """Return the stored truth by (task, GPUs, what is fixed)."""
    rows: dict[tuple[str, int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with FILE.open(encoding="utf-8", newline="") as stored:
        for row in csv.DictReader(stored):
            rows[row["task"], int(row["gpus"]), row["fixed"]][int(row["point"])].append(float(row["loss"]))
    return {key: Landscape(losses) for key, losses in rows.items()}
