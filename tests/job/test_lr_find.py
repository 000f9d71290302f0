"""The LR range test: what a curve is made of, when a sweep stops, and that nothing disturbs it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from gpuplan_job import lr_find
from gpuplan_job.contract import (
    FAILURE_FILE,
    LR_RESULT_FILE,
    BatchSpec,
    Failure,
    JobInput,
    LrResult,
    LrTarget,
    Progress,
    SweepSpec,
    WorkloadSpec,
)
from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError
from gpuplan_job.learner import Learner
from gpuplan_job.loaders import DataSets
from gpuplan_job.pace import Pace
from gpuplan_job.suggestion import Suggestion, suggest
from gpuplan_job.sweep import Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpuplan_job.data import Samples

CPU = torch.device("cpu")
SAMPLES, FEATURES, CLASSES = 203, 12, 4
WORKLOAD = WorkloadSpec(
    model="resnet18",
    data="digits",
    image_size=None,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=0.0,
    schedule="onecycle",
    label_smoothing=0.0,
    epochs=4,
    precision="fp32",
    seed=5,
    workers=0,
)
SWEEP = SweepSpec(
    runs=1,
    iterations=60,
    lr_min=1e-5,
    lr_max=10.0,
    reference_steps=100,
    noise_micro_batches=0,
    target=LrTarget("edge", "noise-scale", 64, 25),
)


def job(
    sweep: SweepSpec = SWEEP, per_gpu: int = 16, accumulation: int = 1, workload: WorkloadSpec = WORKLOAD
) -> JobInput:
    return JobInput("run", "lr-find", 1, "plan", workload, BatchSpec(per_gpu, 1, accumulation), "cpu", sweep=sweep)


def blobs() -> Samples:
    """Return four Gaussian classes, far enough apart to be learnt in a few steps."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SAMPLES) % CLASSES
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    return TensorDataset(centres[targets] + torch.randn(SAMPLES, FEATURES, generator=generator), targets)  # type: ignore[return-value] # typed as tensors, yields (Tensor, Tensor)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def restless() -> nn.Module:
    """Return a network with running statistics and random numbers of its own."""
    return nn.Sequential(
        nn.Linear(FEATURES, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, CLASSES)
    )


class Poisoned(nn.Module):
    """Gives NaN from forward pass number `after` on, and counts the passes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.inner = mlp()
        self.after = after
        self.passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        outputs: Tensor = self.inner(inputs)
        return outputs * math.nan if self.passes > self.after else outputs


def run(job_input: JobInput, factory: Callable[[], nn.Module] = mlp) -> LrResult:
    return lr_find.range_test(job_input, "digest", factory, DataSets(blobs(), blobs()), CPU, lambda _progress: None)


def quiet_sweeper(spec: SweepSpec, on_progress: Callable[[Progress], None] = lambda _progress: None) -> Sweeper:
    ticks = count(0.0, 2.0)
    return Sweeper(spec, Pace("lr-find", spec.iterations, 16, lambda: next(ticks), on_progress))


def endless(gain: float = 1.0, seen: list[int] | None = None) -> Iterator[list[tuple[Tensor, Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    while True:
        if seen is not None:
            seen.append(16)
        yield [(gain * torch.randn(16, FEATURES, generator=generator), torch.arange(16) % CLASSES)]


def test_a_curve_that_learns_gets_an_lr_and_says_how_it_was_measured() -> None:
    result = run(job(replace(SWEEP, runs=3, iterations=120, noise_micro_batches=16)))
    assert isinstance(suggest(result, "normalised"), Suggestion)
    assert [curve.seed for curve in result.curves] == [5, 6, 7]
    assert result.sweep.runs == 3
    assert result.input_sha256 == "digest"
    assert result.noise_scale is not None
    # 203 samples hold 12 full micro-batches: a thirteenth would repeat samples of the first.
    assert (result.noise_scale.micro_batches, result.noise_scale.micro_batch_size) == (12, 16)
    assert result.measured.step_seconds > 0
    assert result.measured.samples_per_second == pytest.approx(16 / result.measured.step_seconds)
    assert LrResult.from_json(result.to_json()) == result


def test_learning_rates_rise_geometrically_from_lr_min_to_lr_max() -> None:
    curve = run(job(replace(SWEEP, iterations=5, lr_min=1e-4, lr_max=1e-2))).curves[0]
    assert curve.stop_reason == "completed"
    assert curve.learning_rates == pytest.approx([10 ** (-4 + i / 2) for i in range(5)])
    assert curve.learning_rates[0] == 1e-4
    assert curve.learning_rates[-1] == curve.stopped_at_lr == 1e-2


def test_data_too_small_for_a_noise_scale_still_gives_curves() -> None:
    result = run(job(replace(SWEEP, noise_micro_batches=16), per_gpu=32))
    assert result.noise_scale is None
    assert result.curves == run(job(per_gpu=32)).curves


def test_the_precision_recorded_is_the_one_the_device_ran() -> None:
    for asked, ran in (("16-mixed", "bf16-mixed"), ("bf16-mixed", "bf16-mixed"), ("fp32", "fp32")):
        workload = replace(WORKLOAD, precision=asked)  # type: ignore[arg-type] # the literals of the line above
        assert run(job(replace(SWEEP, iterations=2), workload=workload)).precision == ran


@pytest.mark.parametrize("factory", [mlp, restless])
def test_the_noise_measurement_leaves_the_sweeps_as_they_are(factory: Callable[[], nn.Module]) -> None:
    without = run(job(replace(SWEEP, runs=2)), factory)
    with_noise = run(job(replace(SWEEP, runs=2, noise_micro_batches=16)), factory)
    assert with_noise.noise_scale is not None
    assert with_noise.curves == without.curves


def test_each_run_is_the_run_of_its_own_seed() -> None:
    three = run(job(replace(SWEEP, runs=3)), restless).curves
    alone = run(job(workload=replace(WORKLOAD, seed=7)), restless).curves
    assert three[2] == alone[0]
    assert three[0] != three[1]


def test_the_lr_rises_once_per_optimizer_step_not_per_micro_batch() -> None:
    networks: list[Poisoned] = []

    def factory() -> nn.Module:
        networks.append(Poisoned(after=10**9))
        return networks[-1]

    curve = run(job(replace(SWEEP, iterations=20, lr_max=0.1), per_gpu=8, accumulation=3), factory).curves[0]
    assert len(curve.losses) == 20
    assert networks[0].passes == 60


def test_accumulating_gives_the_curve_of_the_large_batch() -> None:
    # 203 samples are 12 steps of 16 and a ragged one, which is left out either way.
    large = run(job(replace(SWEEP, lr_max=0.1), per_gpu=16)).curves[0]
    small = run(job(replace(SWEEP, lr_max=0.1), per_gpu=4, accumulation=4)).curves[0]
    assert small.losses == pytest.approx(large.losses, rel=1e-3)


def test_nan_stops_the_sweep_and_is_not_recorded() -> None:
    curve = run(job(), lambda: Poisoned(after=7)).curves[0]
    assert curve.stop_reason == "non-finite"
    assert len(curve.losses) == 7
    assert all(math.isfinite(loss) for loss in curve.losses)
    assert curve.stopped_at_lr == pytest.approx(1e-5 * 10 ** (6 * 7 / 59))


def test_a_network_that_is_nan_from_the_start_still_gives_a_result() -> None:
    result = run(job(replace(SWEEP, noise_micro_batches=8)), lambda: Poisoned(after=0))
    assert result.curves[0].losses == []
    assert result.noise_scale is None
    answer = suggest(LrResult.from_json(result.to_json()), "edge")
    assert answer.verdict == "diverged"


def test_a_sweep_that_blows_up_stops_but_keeps_points_beyond_its_edge() -> None:
    curve = run(job(replace(SWEEP, iterations=200, lr_max=1e4))).curves[0]
    start = curve.losses[0]
    assert curve.stop_reason == "diverged"
    assert curve.stopped_at_lr == curve.learning_rates[-1] < 1e4
    assert sum(loss > start for loss in curve.losses) >= 3


def test_parameter_groups_keep_the_ratio_of_their_lrs() -> None:
    network = mlp()
    first, second = list(network.parameters())[:2], list(network.parameters())[2:]
    spec = replace(SWEEP, iterations=30, lr_max=1e-2)
    groups: list[dict[str, object]] = [{"params": first, "lr": 1e-6}, {"params": second}]
    optimizer = torch.optim.SGD(groups, lr=1e-5)
    quiet_sweeper(spec).sweep(
        Learner.of(network, WORKLOAD, CPU), optimizer, torch.amp.GradScaler("cpu", enabled=False), endless(), 0
    )
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-2])


def test_a_step_the_scaler_skips_is_no_point_and_is_tried_again_at_the_same_lr() -> None:
    network = mlp()
    seen: list[int] = []
    progress: list[Progress] = []
    spec = replace(SWEEP, iterations=30, lr_min=1e-9, lr_max=1e-6)
    # A scale that overflows float32 gradients for a while, as 2^16 does those of float16.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9)
    sweeper = quiet_sweeper(spec, progress.append)
    curve = sweeper.sweep(Learner.of(network, WORKLOAD, CPU), optimizer, scaler, endless(gain=100.0, seen=seen), 0)
    assert curve.stop_reason == "completed"
    assert sorted({line.done for line in progress}) == list(range(31))
    assert curve.learning_rates == pytest.approx([1e-9 * 10 ** (3 * i / 29) for i in range(30)])
    assert len(seen) > 30


def test_gradients_that_are_never_finite_end_the_sweep() -> None:
    class InfiniteSlope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.w.abs().sqrt().expand(len(inputs), CLASSES)

    network = InfiniteSlope()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)
    curve = quiet_sweeper(SWEEP).sweep(
        Learner.of(network, WORKLOAD, CPU), optimizer, torch.amp.GradScaler("cpu"), endless(), 0
    )
    assert curve.stop_reason == "non-finite"
    assert curve.losses == []


def test_progress_names_the_sweep_and_counts_to_the_total() -> None:
    seen: list[Progress] = []
    spec = replace(SWEEP, runs=2, iterations=10, lr_max=1e-2)
    lr_find.range_test(job(spec), "digest", mlp, DataSets(blobs(), blobs()), CPU, seen.append)
    assert seen[-1].done == seen[-1].total == 20
    assert seen[-1].phase == "sweep 2 of 2"
    assert set(seen[-1].values) == {"loss", "learning_rate", "samples_per_second"}


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (replace(job(), batch=BatchSpec(16, 2, 1)), "usage"),
        (job(replace(SWEEP, lr_max=1e-6)), "usage"),
        (job(replace(SWEEP, iterations=1)), "usage"),
        (job(per_gpu=SAMPLES + 1), "data"),
    ],
    ids=["two GPUs", "falling range", "one step", "batch larger than the data"],
)
def test_an_input_that_is_no_range_test_on_one_gpu_is_refused(broken: JobInput, kind: str) -> None:
    with pytest.raises(JobError) as caught:
        run(broken)
    assert caught.value.kind == kind


def test_as_a_job_it_reads_its_input_and_writes_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = job(replace(SWEEP, iterations=4, noise_micro_batches=8), per_gpu=8).to_json()
    (tmp_path / "input.json").write_text(text)
    assert lr_find.main([str(tmp_path / "input.json"), str(tmp_path)]) == 0
    result = LrResult.from_json((tmp_path / LR_RESULT_FILE).read_text())
    assert result.input_sha256 == sha256_hex(text)
    assert len(result.curves[0].losses) == 4
    lines = [Progress.from_line(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] is not None
    assert lines[-1].done == 4


def test_as_a_job_it_records_its_failure(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text(job(workload=replace(WORKLOAD, model="resnet81")).to_json())
    assert lr_find.main([str(tmp_path / "input.json"), str(tmp_path)]) == 1
    failure = Failure.from_json((tmp_path / FAILURE_FILE).read_text())
    assert failure.run_id == "run"
    assert "resnet81" in failure.message
    assert not (tmp_path / LR_RESULT_FILE).exists()
    assert json.loads((tmp_path / FAILURE_FILE).read_text())["kind"] == "usage"
