"""The LR range test at more batches than its own: a check by accumulation, and batches to compare."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from gpuplan_job import lr_find, runtime
from gpuplan_job.batch_comparison import compare
from gpuplan_job.contract import (
    LR_RESULT_FILE,
    BatchSpec,
    JobInput,
    LrResult,
    LrTarget,
    Progress,
    SweepAt,
    SweepSpec,
    WorkloadSpec,
)
from gpuplan_job.decision import decide
from gpuplan_job.failures import JobError
from gpuplan_job.loaders import DataSets
from gpuplan_job.suggestion import Suggestion, suggest_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpuplan_job.data import Samples

CPU = torch.device("cpu")
SAMPLES, FEATURES, CLASSES = 203, 12, 4
WORKLOAD = WorkloadSpec("resnet18", "digits", "sgd", 0.9, 0.0, "onecycle", 0.0, 4, "fp32", 5, 0)
CHECK = SweepAt(BatchSpec(16, 1, 4), runs=2, iterations=50, reference_steps=25)
SMALL, LARGE = (SweepAt(BatchSpec(b, 1, 1), runs=1, iterations=40, reference_steps=800 // b) for b in (8, 64))
SWEEP = SweepSpec(
    runs=2,
    iterations=60,
    lr_min=1e-5,
    lr_max=10.0,
    reference_steps=100,
    noise_micro_batches=8,
    target=LrTarget("edge", "accumulate", 64, 25),
)
EVERYTHING = replace(SWEEP, check=CHECK, compare=[SMALL, LARGE])


def job(sweep: SweepSpec = EVERYTHING, per_gpu: int = 16) -> JobInput:
    return JobInput("run", "lr-find", 1, "plan", WORKLOAD, BatchSpec(per_gpu, 1, 1), "cpu", sweep=sweep)


def blobs() -> Samples:
    """Return four Gaussian classes, far enough apart to be learnt in a few steps."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SAMPLES) % CLASSES
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    return TensorDataset(centres[targets] + torch.randn(SAMPLES, FEATURES, generator=generator), targets)  # type: ignore[return-value] # typed as tensors, yields (Tensor, Tensor)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))


class Counting(nn.Module):
    """Notes the size of each batch it is given in training."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.inner = mlp()
        self.seen = seen

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(len(inputs))
        outputs: Tensor = self.inner(inputs)
        return outputs


def run(
    job_input: JobInput,
    factory: Callable[[], nn.Module] = mlp,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> LrResult:
    return lr_find.range_test(job_input, "digest", factory, DataSets(blobs(), blobs()), CPU, on_progress)


def test_check_and_compared_batches_leave_the_range_tests_own_curves_as_they_are() -> None:
    alone, more = run(job(SWEEP)), run(job())
    assert more.curves == alone.curves
    assert more.noise_scale == alone.noise_scale


def test_each_batch_has_the_sweeps_it_was_told() -> None:
    result = run(job())
    assert result.check is not None
    assert [result.check.at, *(found.at for found in result.compared)] == [CHECK, SMALL, LARGE]
    for found in (result.check, *result.compared):
        assert [curve.seed for curve in found.curves] == [5 + run for run in range(found.at.runs)]
        assert all(len(curve.losses) <= found.at.iterations for curve in found.curves)


def test_the_sweeps_at_another_batch_are_those_of_a_range_test_at_that_batch() -> None:
    result = run(job())
    at_64 = replace(SWEEP, runs=1, iterations=40, noise_micro_batches=0)
    assert result.compared[1].curves == run(job(at_64, per_gpu=64)).curves


def test_a_check_takes_the_step_of_the_global_batch_in_micro_batches_of_the_per_gpu_batch() -> None:
    seen: list[int] = []
    few = replace(CHECK, runs=1, iterations=3)
    spec = replace(SWEEP, noise_micro_batches=0, runs=1, iterations=2, lr_max=1e-4, check=few)
    run(job(spec), lambda: Counting(seen))
    assert seen == [16] * (2 + 3 * 4)


def test_the_job_decides_itself_and_a_reader_comes_to_the_same() -> None:
    result = run(job())
    assert result.check is not None
    found = suggest_at(result, result.check, "edge")
    assert isinstance(found, Suggestion)
    assert result.decision.checked_learning_rate == result.decision.training_learning_rate == found.learning_rate
    read = LrResult.from_json(result.to_json())
    assert read == result
    assert decide(read) == result.decision
    compared = compare(read)
    assert compared is not None
    assert [row.batch for row in compared.batches] == [8, 16, 64]


def test_other_batches_count_in_neither_step_time_nor_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    sizes: list[int] = []

    def now() -> float:
        """Return a time that goes on by as much as the step before was large."""
        return next(ticks) + 1000.0 * sum(size > 16 for size in sizes)

    def peak(_device: torch.device) -> float:
        return float(max(sizes, default=0))

    monkeypatch.setattr(lr_find, "time", SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(runtime, "peak_gib", peak)
    spec = replace(SWEEP, noise_micro_batches=0)
    alone = run(job(spec), lambda: Counting(sizes)).measured
    sizes.clear()
    more = run(job(replace(spec, check=CHECK, compare=[LARGE])), lambda: Counting(sizes)).measured
    assert max(sizes) == 64
    assert more.peak_gib == alone.peak_gib == 16
    assert more.step_seconds == alone.step_seconds
    assert more.busy_seconds == alone.busy_seconds
    assert more.samples_per_second == alone.samples_per_second


def test_progress_counts_all_sweeps_and_says_which_batch_they_are_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(0.0, 2.0)
    monkeypatch.setattr(lr_find, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    seen: list[Progress] = []
    run(job(), on_progress=seen.append)
    total = 2 * 60 + 2 * 50 + 40 + 40
    assert {line.total for line in seen} == {total} == {EVERYTHING.optimizer_steps}
    done = [line.done for line in seen]
    assert done == sorted(done)
    assert done[-1] <= total
    phases = {line.phase for line in seen}
    assert {"check at batch 64, sweep 2 of 2", "batch 8, sweep 1 of 1", "batch 64, sweep 1 of 1"} <= phases


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        (replace(CHECK, batch=BatchSpec(16, 1, 13)), "data"),
        (replace(CHECK, batch=BatchSpec(16, 4, 1)), "usage"),
        (replace(CHECK, runs=0), "usage"),
        (replace(CHECK, iterations=1), "usage"),
    ],
    ids=["more than the data", "four devices", "no sweep", "one step"],
)
def test_sweeps_at_a_batch_that_cannot_be_made_are_refused_before_any_is(at: SweepAt, kind: str) -> None:
    seen: list[int] = []
    for spec in (replace(SWEEP, check=at), replace(SWEEP, compare=[at])):
        with pytest.raises(JobError) as caught:
            run(job(spec), lambda: Counting(seen))
        assert caught.value.kind == kind
    assert seen == []


def test_as_a_job_it_writes_what_its_decision_is(tmp_path: Path) -> None:
    check = replace(CHECK, batch=BatchSpec(8, 1, 2), runs=1, iterations=3)
    spec = replace(EVERYTHING, runs=1, iterations=4, check=check, compare=[])
    (tmp_path / "input.json").write_text(job(spec, per_gpu=8).to_json())
    assert lr_find.main([str(tmp_path / "input.json"), str(tmp_path)]) == 0
    result = LrResult.from_json((tmp_path / LR_RESULT_FILE).read_text())
    assert result.workload == WORKLOAD
    assert result.decision.verdict != "ok", "four steps are too few for a curve"
    assert decide(result) == result.decision
