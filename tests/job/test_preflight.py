"""What is wrong with a machine is said before data are read: GPUs, driver, memory, disk, and ranks that do not come."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined] # torch does not type it

from gpuplan_job import machine_probe, preflight, reachability
from gpuplan_job.contract import Expected, JobInput
from gpuplan_job.failures import JobError
from gpuplan_job.preflight import Gpu, Machine, Needs, driver_is_too_old, runs_on
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.contract import FailureKind

A10G = Gpu("A10G", (8, 6), free_gib=21.9, total_gib=22.4)
G5 = Machine(
    gpus=4,
    gpu=A10G,
    torch="2.14.1+cu130",
    cuda="13.0",
    architectures=("sm_75", "sm_80", "sm_90", "compute_120"),
    driver="580.95.05",
    disk_free_gib=100.0,
    shared_memory_gib=90.0,
)
CPU = replace(G5, gpus=0, gpu=None, architectures=(), driver=None)
NEEDS = Needs("cuda", 4, Expected(peak_gib=3.9, checkpoint_gib=0.2, loader_gib=0.6))


def found(machine: Machine, needs: Needs = NEEDS) -> tuple[FailureKind, str, str]:
    error = preflight.problem(machine, needs)
    assert error is not None
    return error.kind, error.message, error.fix


def test_a_sound_machine_passes_and_says_what_it_is() -> None:
    assert preflight.problem(G5, NEEDS) is None
    assert preflight.summary(G5, NEEDS, "NCCL ok in 1.2 s") == (
        "preflight: 4 GPU(s) A10G sm_86 ok, driver 580.95.05, 21.9 of 22.4 GiB free, 100.0 GiB of disk free, "
        "NCCL ok in 1.2 s"
    )
    assert "3 of 4 GPU(s)" in preflight.summary(G5, replace(NEEDS, processes=3), "")


def test_without_gpus_auto_and_cpu_pass_and_cuda_does_not() -> None:
    assert preflight.problem(CPU, replace(NEEDS, device="auto")) is None
    assert preflight.problem(CPU, replace(NEEDS, device="cpu")) is None
    assert preflight.summary(CPU, replace(NEEDS, device="cpu", processes=2), "gloo ok in 0.1 s") == (
        "preflight: no CUDA GPU used, 2 process(es), 100.0 GiB of disk free, gloo ok in 0.1 s"
    )
    kind, text, _ = found(CPU)
    assert (kind, text) == (
        "device",
        "torch 2.14.1+cu130 sees no GPU(s) here, 4 are planned; no NVIDIA driver is loaded",
    )
    assert found(replace(CPU, cuda=None))[1] == "torch 2.14.1+cu130 was built without CUDA"


def test_fewer_gpus_than_planned_are_counted() -> None:
    kind, text, fix = found(replace(G5, gpus=3))
    assert (kind, "sees 3 GPU(s) here, 4 are planned" in text, "CUDA_VISIBLE_DEVICES" in fix) == ("device", True, True)


def test_a_driver_too_old_for_the_runtime_explains_why_no_gpu_is_seen() -> None:
    _, text, fix = found(replace(CPU, driver="535.183.01"))
    assert text.endswith("its driver 535.183.01 is older than CUDA 13.0 needs (580.0)")
    assert fix.startswith("update the NVIDIA driver to 580.0 or newer")


@pytest.mark.parametrize(
    ("driver", "cuda", "needed"),
    [
        ("450.51.06", "11.8", "450.80"),
        ("450.80.02", "11.8", None),
        ("470.57.02", "12.4", "525.60"),
        ("525.60.13", "12.6", None),
        ("575.57.08", "13.0", "580.0"),
        ("580.65.06", "13.1", None),
        (None, "12.4", None),
        ("550.54.15", None, None),
        ("550.54.15", "14.0", None),
        ("garbage", "12.4", None),
    ],
)
def test_the_driver_that_a_runtime_needs(driver: str | None, cuda: str | None, needed: str | None) -> None:
    assert driver_is_too_old(driver, cuda) == needed


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["compute_80"], True),
        ((8, 0), ["compute_90"], False),
        ((12, 0), ["sm_120"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((9, 0), ["sm_90a"], True),
        ((8, 6), ["gfx90a", ""], False),
    ],
)
def test_which_gpus_a_build_runs_on(capability: tuple[int, int], built: list[str], *, runs: bool) -> None:
    assert runs_on(capability, built) is runs


def test_a_gpu_that_torch_has_no_code_for_is_named_with_what_it_was_built_for() -> None:
    v100 = replace(A10G, name="V100", capability=(7, 0), fault="no kernel image is available")
    kind, text, _ = found(replace(G5, gpu=v100))
    assert (kind, text) == (
        "device",
        "torch 2.14.1+cu130 has no code for V100 (sm_70): it was built for sm_75 sm_80 sm_90 compute_120",
    )
    # A kernel that ran proves more than a list.
    assert preflight.problem(replace(G5, gpu=replace(v100, fault=None)), NEEDS) is None


def test_a_gpu_that_fails_for_another_reason_says_which() -> None:
    broken = replace(A10G, fault="CUDA error: unspecified launch failure")
    assert "a first kernel fails on A10G: CUDA error" in found(replace(G5, gpu=broken))[1]


def test_a_gpu_that_others_fill_is_named_with_them_and_an_idle_small_one_is_the_plans_business() -> None:
    full = replace(G5, gpu=replace(A10G, free_gib=2.0), holders="process 4711 with 20100 MiB")
    assert found(full)[1] == (
        "2.0 of 22.4 GiB are free on A10G, 3.9 are planned: process 4711 with 20100 MiB holds the rest"
    )
    assert "a process that cannot be seen from here" in found(replace(full, holders=""))[1]
    small = replace(G5, gpu=replace(A10G, free_gib=3.0, total_gib=3.2))
    assert preflight.problem(small, NEEDS) is None
    assert preflight.problem(full, replace(NEEDS, expected=Expected())) is None


def test_a_disk_without_room_for_four_checkpoints() -> None:
    kind, text, _ = found(replace(G5, disk_free_gib=0.5))
    assert (kind, text) == (
        "disk",
        "0.50 GiB are free where checkpoints are written, 0.85 are needed for 4 checkpoints of 0.20 GiB",
    )
    assert found(replace(G5, disk_free_gib=0.01), replace(NEEDS, expected=Expected()))[0] == "disk"


def test_shared_memory_too_small_for_the_workers() -> None:
    kind, text, fix = found(replace(G5, shared_memory_gib=0.06))
    assert (kind, "need about 2.40" in text, "--shm-size" in fix) == ("disk", True, True)
    assert preflight.problem(replace(G5, shared_memory_gib=None), NEEDS) is None
    assert preflight.problem(replace(G5, shared_memory_gib=0.0), replace(NEEDS, expected=Expected())) is None


def test_the_drivers_version_is_read_from_either_kind_of_module() -> None:
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    assert preflight.driver_version(closed) == "550.54.15"
    assert preflight.driver_version(opened) == "580.95.05"
    assert preflight.driver_version("nothing") is None


def test_this_machine_passes_as_a_cpu_and_says_so(
    tmp_path: Path, train_input: JobInput, capsys: pytest.CaptureFixture[str]
) -> None:
    machine_probe.check(train_input, tmp_path, Process(0, 0, 1, 1))
    assert capsys.readouterr().err.startswith("preflight: no CUDA GPU used, 1 process(es), ")
    machine_probe.check(train_input, tmp_path, Process(1, 1, 1, 2))
    assert capsys.readouterr().err == ""


def test_a_job_too_large_for_the_disk_fails_before_its_data_are_read(tmp_path: Path, train_input: JobInput) -> None:
    with pytest.raises(JobError, match=r"4 checkpoints of 1000000\.00 GiB") as caught:
        machine_probe.check(replace(train_input, expected=Expected(checkpoint_gib=1e6)), tmp_path, Process(0, 0, 1, 1))
    assert caught.value.kind == "disk"


def test_what_hangs_is_given_up_and_what_fails_is_passed_on() -> None:
    never = threading.Event()
    with pytest.raises(JobError, match="the GPUs did not answer within 0 s"):
        machine_probe.within(0.01, "the GPUs", never.wait)
    never.set()

    def fails() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        machine_probe.within(5, "the GPUs", fails)
    assert machine_probe.within(5, "the GPUs", lambda: 3) == 3


def test_ranks_that_do_not_come_are_named() -> None:
    store = HashStore()
    store.set("here/2", "1")
    assert reachability.absent(store, "here", Process(0, 0, 4, 4), 0.1) == [1, 3]
    error = reachability.not_there([1, 3], 4, 90)
    assert error.message == "rank 1, 3 of 4 did not start within 90 s of the others"
    store.set("here/1", "1")
    store.set("here/3", "1")
    assert reachability.absent(store, "here", Process(0, 0, 4, 4), 60) == []


def test_ranks_that_cannot_reach_each_other_are_named_with_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    error = reachability.unreachable([0, 1], "nccl", 30)
    assert (error.kind, error.message) == (
        "communication",
        "nccl did not reach all ranks within 30 s (interface eth0): rank 0, 1 still waits",
    )
    assert "security group" in error.fix


def test_a_sum_over_ranks_of_which_one_never_comes_is_given_up() -> None:
    with pytest.raises(JobError, match="gloo") as caught:
        reachability.reduce(HashStore(), "gloo", torch.device("cpu"), Process(0, 0, 2, 2), seconds=0.5)
    assert caught.value.kind == "communication"
