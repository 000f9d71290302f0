"""Device, precision, seeds, optimizer and clock of a job."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from torch import nn

from gpuplan_job import optim, runtime
from gpuplan_job.contract import TrainSpec
from gpuplan_job.failures import JobError
from gpuplan_job.process import Process
from gpuplan_job.step_clock import StepClock

if TYPE_CHECKING:
    from gpuplan_job.contract import JobInput

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="states what happens without a GPU")


@no_gpu
def test_cuda_without_a_gpu_is_an_error_and_never_a_fallback() -> None:
    with pytest.raises(JobError, match="torch sees no GPU here") as caught:
        runtime.device("cuda", 0)
    assert caught.value.kind == "device"


@no_gpu
def test_auto_without_a_gpu_is_the_cpu_and_cpu_always_is() -> None:
    assert runtime.device("auto", 0, processes=2) == CPU
    assert runtime.device("cpu", 3) == CPU


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_a_gpu_that_is_there_but_fails_is_an_error_and_never_the_cpu(requested: Literal["auto", "cuda"]) -> None:
    machine = runtime.Accelerators(gpus=2, fault=lambda rank: f"no kernel image for GPU {rank}", mps=True)
    with pytest.raises(JobError, match=f"--device {requested}: no kernel image for GPU 1") as caught:
        runtime.device(requested, 1, 2, machine)
    assert caught.value.kind == "device"


def test_auto_with_fewer_gpus_than_processes_is_the_cpu_on_every_rank() -> None:
    machine = runtime.Accelerators(gpus=1, fault=lambda _rank: None, mps=False)
    assert {runtime.device("auto", rank, 2, machine) for rank in (0, 1)} == {CPU}
    with pytest.raises(JobError, match="2 processes need a GPU each, torch sees 1"):
        runtime.device("cuda", 0, 2, machine)


def test_auto_takes_an_apple_gpu_for_a_single_process() -> None:
    machine = runtime.Accelerators(gpus=0, fault=lambda _rank: None, mps=True)
    assert runtime.device("auto", 0, 1, machine).type == "mps"
    assert runtime.device("auto", 0, 2, machine) == CPU


def test_mps_for_several_processes_is_an_error() -> None:
    with pytest.raises(JobError, match="--device mps"):
        runtime.device("mps", 0, processes=2)


def test_half_precision_on_a_cpu_is_bfloat16_without_a_scaler() -> None:
    assert runtime.lightning_precision("16-mixed", CPU) == "bf16-mixed"
    assert runtime.lightning_precision("fp32", CPU) == "32-true"
    assert not runtime.grad_scaler("16-mixed", CPU).is_enabled()
    for precision, kind in (("16-mixed", torch.bfloat16), ("bf16-mixed", torch.bfloat16), ("fp32", torch.float32)):
        with runtime.autocast(precision, CPU):  # type: ignore[arg-type] # the literals of the line above
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind


def test_half_precision_on_an_apple_gpu_is_bfloat16_without_a_scaler() -> None:
    apple = torch.device("mps")
    assert runtime.effective_precision("16-mixed", apple) == "bf16-mixed"
    assert runtime.effective_precision("fp32", apple) == "fp32"
    assert runtime.lightning_precision("16-mixed", apple) == "bf16-mixed"
    assert not runtime.grad_scaler("16-mixed", apple).is_enabled()
    assert runtime.effective_precision("16-mixed", torch.device("cuda", 1)) == "16-mixed"


def test_one_seed_fixes_python_and_torch() -> None:
    drawn = []
    for _ in range(2):
        runtime.seed_everything(2**40 + 1)
        drawn.append((random.random(), torch.rand(1).item()))  # noqa: S311 - the draw is the point
    assert drawn[0] == drawn[1]


def test_derived_seeds_share_no_stream() -> None:
    seeds = [runtime.derived_seed(seed, purpose, epoch) for seed in (0, 1) for purpose in "ab" for epoch in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert runtime.derived_seed(0, "a", 1) == runtime.derived_seed(0, "a", 1)


def test_a_block_that_is_seeded_draws_the_same_and_changes_nothing_outside() -> None:
    runtime.seed_everything(5)
    expected = [torch.rand(1).item() for _ in range(2)]
    runtime.seed_everything(5)
    first = torch.rand(1).item()
    inside = []
    for _ in range(2):
        with runtime.seeded(2**60 + 3):
            inside.append((torch.rand(1).item(), random.random()))  # noqa: S311 - the draw is the point
    assert [first, torch.rand(1).item()] == expected
    assert inside[0] == inside[1]


def test_a_process_knows_its_machine_and_how_many_there_are() -> None:
    assert Process.from_environment({}) == Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
    torchruns = {"RANK": "13", "LOCAL_RANK": "5", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    found = Process.from_environment(torchruns)
    assert (found.rank, found.local_rank, found.nodes) == (13, 5, 2)


def test_versions_and_memory_are_known() -> None:
    versions = runtime.versions()
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"python", "torch", "cuda", "torchvision", "lightning"}
    peak = runtime.peak_gib(CPU)
    assert peak is not None
    assert 0.05 < peak < 1000
    assert runtime.device_name(CPU)


def test_the_optimizer_is_the_workloads(train_input: JobInput) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    sgd = optim.build(train_input.workload, network, 0.1)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.param_groups[0]["weight_decay"]) == (0.9, 5e-4)
    adamw = optim.build(replace(train_input.workload, optimizer="adamw"), network, 0.1)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("total", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("name", ["onecycle", "constant"])
def test_a_schedule_lasts_exactly_its_steps_and_leaves_momentum_alone(
    train_input: JobInput, name: Literal["onecycle", "constant"], total: int
) -> None:
    workload = replace(train_input.workload, schedule=name)
    optimizer = optim.build(workload, nn.Linear(1, 2), 0.5)
    schedule = optim.schedule(workload, optimizer, TrainSpec(0.5), total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[0]["momentum"] == 0.9
        optimizer.step()
        schedule.step()
    assert max(rates) <= 0.5 + 1e-12
    if name == "constant":
        assert rates == [0.5] * total
    elif total >= 10:
        assert max(rates) == pytest.approx(0.5, rel=0.05)
        assert rates[-1] < rates[0] < max(rates)


def test_the_loss_is_cross_entropy_as_sum_or_mean() -> None:
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    mean, total = (optim.loss(logits, targets, 0.0, kind) for kind in ("mean", "sum"))
    assert total.item() == pytest.approx(5 * mean.item())
    assert optim.loss(logits, targets, 0.5).item() != pytest.approx(mean.item())


def test_the_clock_gives_the_median_step_and_needs_one() -> None:
    clock = StepClock(CPU)
    with pytest.raises(ValueError, match="no optimizer step"):
        clock.median_seconds()
    clock.restart()
    for _ in range(5):
        clock.tick()
    assert 0 <= clock.median_seconds() < 1
