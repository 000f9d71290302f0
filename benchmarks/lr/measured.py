"""Everything that `lr_regret.py` measures on one task, as functions that a pool of processes can call."""

from __future__ import annotations

import math
import statistics
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from gpuplan_job.contract import (
    UNDECIDED,
    BatchSpec,
    BatchSweeps,
    LrResult,
    LrTarget,
    Measured,
    SweepAt,
    SweepSpec,
)
from gpuplan_job.decision import decide
from gpuplan_job.sweep_design import CHECK_RUNS, POLICIES, RULE, RUNS
from lr import peers, readings, truth
from lr.finder import noise_scale, spec, sweep
from lr.tasks import BATCH, Task
from lr.training import final_loss

if TYPE_CHECKING:
    from gpuplan_job.contract import Curve
    from lr.truth import Unit

DEFAULT_RULE, DEFAULT_POLICY = RULE, POLICIES["epochs"]
FINDERS = 3
"""Independent range tests a task; peers get as many."""
_APART = 1000
"""Between the seeds of two range tests."""
_FIRST = 2000
LONGER = 4
"""The drift is that of sweeps so many times as long."""
CHECKED_GPUS = (4, 8)


@dataclass(frozen=True)
class Found:
    """What was measured on one task."""

    task: Task
    finders: list[LrResult]
    """Range tests as the job makes them."""
    checks: dict[int, BatchSweeps]
    """For the first of them, a check by accumulation for each of `CHECKED_GPUS`."""
    longer: LrResult
    """The first of them again, `LONGER` times as long."""
    trained: dict[int, float]
    """Final loss, mean over the truth's seeds, of a training on so many GPUs at the LR that gpuplan decides."""
    peers: dict[str, list[float | None]] = field(default_factory=dict)


def truth_of(unit: Unit) -> list[dict[str, object]]:
    """Return the rows of a truth curve."""
    _quietly()
    return list(truth.measure(unit))


def all_sweeps(task: Task) -> list[dict[str, Any]]:
    """Return the sweeps of many lengths."""
    _quietly()
    return readings.measure(task)


def with_peers(task: Task) -> Found:
    """Run gpuplan's range tests and every installed peer's."""
    found = without_peers(task)
    there = peers.installed()
    results = {
        name: [finder(task, _seed(number)) for number in range(FINDERS)]
        for name, (package, finder) in peers.PEERS.items()
        if there[package]
    }
    return replace(found, peers=results)


def without_peers(task: Task) -> Found:
    """Run gpuplan's range tests alone."""
    _quietly()
    finders = [_range_test(task, number, 1) for number in range(FINDERS)]
    return Found(
        task=task,
        finders=finders,
        trained={gpus: _trained(task, finders[0], gpus) for gpus in CHECKED_GPUS},
        checks=_checks(task, 0),
        longer=_range_test(task, 0, LONGER),
    )


def target(task: Task, gpus: int, rule: str, policy: str) -> LrTarget:
    """Return the training of a task on so many GPUs."""
    return LrTarget(rule, policy, BATCH * gpus, task.steps(gpus))


def designed(task: Task, gpus: int = 1, longer: int = 1) -> SweepSpec:
    """Return the range test that gpuplan designs for a task."""
    one = spec(task, gpus)
    return replace(one, runs=RUNS, iterations=one.iterations * longer)


def _range_test(task: Task, number: int, longer: int) -> LrResult:
    one, seed = designed(task, longer=longer), _seed(number)
    return LrResult(
        run_id=task.name,
        step="lr-find",
        attempt=1,
        input_sha256="",
        workload=task.workload(seed),
        sweep=one,
        batch=BatchSpec(BATCH, 1, 1),
        precision="fp32",
        curves=[sweep(task, one, seed + run) for run in range(one.runs)],
        noise_scale=noise_scale(task, seed),
        check=None,
        compared=[],
        decision=UNDECIDED,
        measured=Measured(1.0, BATCH, None, "cpu"),
        versions={},
    )


def _checks(task: Task, number: int) -> dict[int, BatchSweeps]:
    found: dict[int, BatchSweeps] = {}
    for gpus in CHECKED_GPUS:
        one = designed(task, gpus)
        at = SweepAt(BatchSpec(BATCH, 1, gpus), CHECK_RUNS, one.iterations, task.steps(gpus))
        curves: list[Curve] = [sweep(task, one, _seed(number) + run, gpus) for run in range(at.runs)]
        found[gpus] = BatchSweeps(at, curves)
    return found


def _trained(task: Task, result: LrResult, gpus: int) -> float:
    decision = decide(result, target(task, gpus, DEFAULT_RULE, DEFAULT_POLICY))
    if decision.training_learning_rate is None:
        return math.inf
    seeds = range(truth.SEEDS[task.data])
    return statistics.fmean(final_loss(task, decision.training_learning_rate, gpus, seed) for seed in seeds)


def _seed(number: int) -> int:
    return _FIRST + number * _APART


def _quietly() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
