"""The batch search on a real device: real steps, a real limit of memory, nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gpuplan_job import batch_search
from gpuplan_job.batch_trial import Training, Trials
from gpuplan_job.contract import (
    BATCH_RESULT_FILE,
    EXIT_CODES,
    FAILURE_FILE,
    BatchResult,
    BatchSearchSpec,
    BatchSpec,
    Failure,
    JobInput,
)
from gpuplan_job.device_memory import DeviceMemory, is_out_of_memory
from gpuplan_job.finder import FindLrError, FoundBatch, NoBatchError, find_batch

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
MIB = 1024**2
GIB = 1024**3


def grows_by(mib: int) -> float:
    """Return GiB that this process may take if it grows by so many MiB over what it holds now."""
    gc.collect()
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - as the kernel gives it
        resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
    return (resident + mib * MIB) / GIB


class Hungry(nn.Module):
    """Keeps 1 MiB and more a sample for its backward pass, and counts how many samples it was given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: set[int] = set()

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.add(len(inputs))
        wide = inputs[:, :1].expand(-1, MIB // 4) * self.weight
        return wide.square().mean(dim=1, keepdim=True)


def pairs(samples: int = 512) -> TensorDataset:
    return TensorDataset(torch.randn(samples, 2), torch.randn(samples, 1))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets)


@LINUX
def test_an_allocation_past_the_limit_fails_for_real_and_the_process_goes_on() -> None:
    memory = DeviceMemory(CPU, memory_gib=grows_by(256))
    with pytest.raises(RuntimeError) as caught, memory.limited():
        torch.ones(512 * MIB, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert torch.ones(512 * MIB, dtype=torch.uint8)[-1] == 1, "no limit is left behind"


@LINUX
def test_a_try_that_runs_out_leaves_nothing_and_a_smaller_one_runs_after_it() -> None:
    weight = nn.Parameter(torch.zeros(()))
    torch.optim.SGD([weight])  # the first optimizer of a process imports more than a hundred MiB
    memory = DeviceMemory(CPU, memory_gib=grows_by(300))

    def make(batch: int) -> Training:
        held: list[Tensor] = []

        def loss(_index: int) -> Tensor:
            held[:] = [torch.ones(batch * MIB, dtype=torch.uint8)]
            return weight.square()

        return Training(loss, torch.optim.SGD([weight], lr=0.1), "fp32", None, 0.0)

    trials = Trials(memory, make, 1, 60.0)
    outcomes = [trials.trial(batch).outcome for batch in (100, 1000, 120, 2000, 140)]
    assert outcomes == ["ran", "out-of-memory", "ran", "out-of-memory", "ran"]


def test_what_is_no_lack_of_memory_is_not_taken_for_it() -> None:
    def make(batch: int) -> Training:
        raise RuntimeError(f"shapes do not match at batch {batch}")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Trials(DeviceMemory(CPU), make, 1, 60.0).trial(8)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        (
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
            True,
        ),
        ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate", True),
        ("could not create a primitive", True),
        ("CUDA error: device-side assert triggered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_lack_of_memory_is_known_by_the_words_of_each_library(message: str, *, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is expected


@LINUX
def test_the_found_batch_is_what_the_limit_leaves_room_for() -> None:
    module = Hungry()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    data = DataLoader(pairs(), batch_size=4)

    def under(mib: int) -> FoundBatch:
        limit = grows_by(mib)
        return find_batch(
            module, data, loss=loss, optimizer=optimizer, device="cpu", memory_gib=limit, memory_share=1.0
        )

    small = under(60)
    assert small.largest < under(180).largest
    assert any(trial.outcome == "out-of-memory" for trial in small.trials), "the capacity was passed, not foreseen"
    assert all(t.peak_gib is None or t.peak_gib <= small.capacity_gib for t in small.trials)


def state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    """Return everything that must not change, as bytes."""
    tensors = {name: value.detach().clone().numpy().tobytes() for name, value in module.state_dict().items()}
    grads = {f"grad {n}": b"" if p.grad is None else p.grad.numpy().tobytes() for n, p in module.named_parameters()}
    kept = {
        f"state {i} {key}": value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
        for i, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    groups = {"groups": repr(optimizer.state_dict()["param_groups"]).encode()}
    return tensors | grads | kept | groups | {"random": torch.get_rng_state().numpy().tobytes()}


@pytest.mark.parametrize("kind", ["sgd", "adamw", "fresh"])
def test_module_optimizer_and_random_state_are_bit_for_bit_as_before(kind: str) -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)).eval()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    if kind == "adamw":
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    if kind != "fresh":
        loss(module(torch.randn(4, 2)), torch.randn(4, 1)).backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
        optimizer.step()
    data = DataLoader(pairs(64), batch_size=4)
    before = state(module, optimizer)
    found = find_batch(module, data, loss=loss, optimizer=optimizer, device="cpu")
    assert [trial.batch for trial in found.trials] == [8, 16, 32, 64]
    assert state(module, optimizer) == before
    assert not module.training


def test_an_exception_in_the_middle_leaves_the_module_as_it_was() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    data = DataLoader(pairs(64), batch_size=4)
    before = state(module, optimizer)

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(outputs) > 8:
            raise KeyError("a fault of the user's own")
        return loss(outputs, targets)

    with pytest.raises(KeyError):
        find_batch(module, data, loss=broken, optimizer=optimizer, device="cpu")
    assert state(module, optimizer) == before


def test_batches_of_any_size_are_made_of_a_list_of_batches() -> None:
    module = Hungry()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batches = [{"x": torch.randn(6, 2), "y": torch.randn(6, 1)} for _ in range(5)]
    found = find_batch(
        module,
        batches,
        step=lambda m, batch: loss(m(batch["x"]), batch["y"]),
        optimizer=optimizer,
        device="cpu",
    )
    assert max(trial.batch for trial in found.trials) == 24, "30 samples, in multiples of 8"


def test_a_bound_and_a_start_are_kept() -> None:
    module = Hungry()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    data = DataLoader(pairs(), batch_size=4)
    found = find_batch(module, data, loss=loss, optimizer=optimizer, device="cpu", start=2, largest=5)
    assert [trial.batch for trial in found.trials] == [2, 4, 5]


def test_what_cannot_be_searched_says_what_to_pass() -> None:
    data = DataLoader(pairs(), batch_size=4)
    with pytest.raises(FindLrError, match="optimizer="):
        find_batch(nn.Linear(2, 1), data, loss=loss)
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(NoBatchError, match="not even batch 1"):
        find_batch(module, data, loss=loss, optimizer=optimizer, device="cpu", memory_gib=0.01)


def job(train_input: JobInput, data: str, start: int, spec: BatchSearchSpec) -> JobInput:
    workload = replace(train_input.workload, data=data)
    return replace(
        train_input, step="find-batch", workload=workload, batch=BatchSpec(start, 1, 1), train=None, batch_search=spec
    )


def launched(job_input: JobInput, folder: Path) -> int:
    source = folder / "input.json"
    source.write_text(job_input.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "gpuplan_job.launch", str(source), str(folder / "job")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, env=environment, capture_output=True, timeout=600).returncode


@LINUX
@pytest.mark.slow
def test_a_job_under_a_limit_meets_it_lives_and_chooses_what_is_safe(train_input: JobInput, tmp_path: Path) -> None:
    spec = BatchSearchSpec(256, 0.95, 2, 1, 300.0, memory_gib=1.0)
    job_input = job(train_input, "fake:3x64x64:10:2000", 64, spec)
    job_input = replace(job_input, workload=replace(job_input.workload, model="mobilenet_v3_small"))
    assert launched(job_input, tmp_path) == 0
    result = BatchResult.from_json((tmp_path / "job" / BATCH_RESULT_FILE).read_bytes())
    assert {trial.outcome for trial in result.trials} == {"ran", "out-of-memory"}
    choice = batch_search.choose(result.trials, spec, result.capacity_gib)
    assert choice is not None
    assert (choice.chosen, choice.largest, choice.fastest) == (result.chosen, result.largest, result.fastest)
    peak = result.trial(result.largest).peak_gib
    assert peak is not None
    assert peak <= 0.95
    assert result.reserved_gib > 0.005, "DDP's buckets of two processes: 1.5 million parameters in fp32"


@LINUX
@pytest.mark.slow
def test_a_job_for_which_no_sample_fits_says_so(train_input: JobInput, tmp_path: Path) -> None:
    spec = BatchSearchSpec(8, 0.8, 1, 1, 60.0, memory_gib=0.2)
    assert launched(job(train_input, "digits", 1, spec), tmp_path) == EXIT_CODES["out-of-memory"]
    failure = Failure.from_json((tmp_path / "job" / FAILURE_FILE).read_bytes())
    assert failure.kind == "out-of-memory"
    assert "not even 1 sample a GPU" in failure.message
    assert json.loads((tmp_path / "job" / "exit.json").read_text())["code"] == EXIT_CODES["out-of-memory"]


def test_a_search_that_finds_no_time_says_so() -> None:
    module = nn.Linear(2, 1)
    with pytest.raises(NoBatchError, match="take longer than"):
        find_batch(
            module,
            DataLoader(pairs(64), batch_size=4),
            loss=loss,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
            device="cpu",
            trial_seconds=1e-9,
        )


@pytest.mark.slow
def test_what_ends_a_try_for_another_reason_is_what_the_job_reports(train_input: JobInput, tmp_path: Path) -> None:
    missing = f"imagefolder:{tmp_path / 'nowhere'}"
    spec = BatchSearchSpec(8, 0.8, 1, 1, 60.0)
    assert launched(job(train_input, missing, 2, spec), tmp_path) == EXIT_CODES["data"]
    failure = Failure.from_json((tmp_path / "job" / FAILURE_FILE).read_bytes())
    assert (failure.kind, "nowhere" in failure.message) == ("data", True)
