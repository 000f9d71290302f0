"""What `local` becomes on machines of every kind, with a fake nvidia-smi and fake control groups."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from gpuplan.profiles import load
from gpuplan.profiles.detect import Machine, resolve, this_machine
from gpuplan.profiles.nvidia import list_gpus, run_quietly
from gpuplan.profiles.schema import DetectedProfile, InstanceProfile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LINUX, MAC = ("Linux", "x86_64"), ("Darwin", "arm64")
TWO_A10G = "NVIDIA A10G, 23028, 8.6, GPU-aaaa\nNVIDIA A10G, 22731, 8.6, GPU-bbbb\n"
BROKEN = "Unable to determine the device handle for GPU0000:00:1E.0: Unknown Error\n"
LOCAL = load.load("local")


def no_such_command(command: Sequence[str]) -> str:
    raise FileNotFoundError(command[0])


def fails(command: Sequence[str]) -> str:
    raise subprocess.CalledProcessError(9, list(command))


def hangs(command: Sequence[str]) -> str:
    raise subprocess.TimeoutExpired(list(command), 10)


def apple(command: Sequence[str]) -> str:
    if command[0] == "sysctl":
        return "Apple M2 Pro\n"
    return no_such_command(command)


def cuda(output: str, tmp_path: Path, environ: dict[str, str] | None = None) -> Machine:
    def run(command: Sequence[str]) -> str:
        assert command[0] == "nvidia-smi"
        return output

    return this_machine(run, environ or {}, LINUX, tmp_path)


def test_gpus_are_counted_and_the_smallest_memory_counts(tmp_path: Path) -> None:
    machine = cuda(TWO_A10G, tmp_path)
    assert (machine.accelerator, machine.gpus, machine.gpu_model) == ("cuda", 2, "NVIDIA A10G")
    assert machine.memory_mib == 22_731
    assert machine.compute_capability == "8.6"


@pytest.mark.parametrize(
    ("visible", "gpus", "memory_mib"),
    [("0", 1, 23_028), ("1", 1, 22_731), ("1,0", 2, 22_731), ("GPU-bb", 1, 22_731), ("0,9,1", 1, 23_028)],
)
def test_cuda_visible_devices_is_respected(visible: str, gpus: int, memory_mib: int, tmp_path: Path) -> None:
    machine = cuda(TWO_A10G, tmp_path, {"CUDA_VISIBLE_DEVICES": visible})
    assert (machine.gpus, machine.memory_mib) == (gpus, memory_mib)


@pytest.mark.parametrize("visible", ["", "-1", "-1,0", "GPU-cc"])
def test_hidden_gpus_leave_the_cpu(visible: str, tmp_path: Path) -> None:
    assert cuda(TWO_A10G, tmp_path, {"CUDA_VISIBLE_DEVICES": visible}).accelerator == "cpu"


@pytest.mark.parametrize("run", [no_such_command, fails, hangs])
def test_missing_failing_or_hanging_nvidia_smi_means_cpu(run: object, tmp_path: Path) -> None:
    machine = this_machine(run, {}, LINUX, tmp_path)  # type: ignore[arg-type] # pytest's parameters have no type
    assert (machine.accelerator, machine.gpus, machine.gpu_model) == ("cpu", 2, "CPU")
    assert machine.memory_mib == pytest.approx(machine.ram_gib * 1024 / 2, rel=1e-3)


def test_broken_gpu_is_left_out(tmp_path: Path) -> None:
    assert cuda(BROKEN, tmp_path).accelerator == "cpu"
    assert cuda("NVIDIA A10G, [N/A], 8.6, GPU-aaaa\n" + TWO_A10G, tmp_path).gpus == 2
    assert cuda("NVIDIA GH200, 97871, [N/A], GPU-aaaa\n", tmp_path).compute_capability is None


def test_apple_machine_runs_one_process_on_its_gpu(tmp_path: Path) -> None:
    machine = this_machine(apple, {}, MAC, tmp_path)
    assert (machine.accelerator, machine.gpus, machine.gpu_model) == ("mps", 1, "Apple M2 Pro")
    assert machine.memory_mib < machine.ram_gib * 1024
    assert this_machine(no_such_command, {}, MAC, tmp_path).gpu_model == "Apple GPU"


def test_container_limits_count(tmp_path: Path) -> None:
    free = this_machine(no_such_command, {}, LINUX, tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{512 * 1024**2}\n")
    limited = this_machine(no_such_command, {}, LINUX, tmp_path)
    assert (limited.vcpus, limited.ram_gib, limited.memory_mib) == (1, 0.5, 256)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert this_machine(no_such_command, {}, LINUX, tmp_path) == free


def test_quiet_runner_gives_output_and_raises_what_detection_expects() -> None:
    assert run_quietly(["echo", "x"]) == "x\n"
    with pytest.raises(FileNotFoundError):
        run_quietly(["gpuplan-no-such-program"])
    with pytest.raises(subprocess.SubprocessError):
        run_quietly(["false"])
    assert list_gpus(lambda _: run_quietly(["false"])) == []


CPU = Machine(accelerator="cpu", gpus=2, gpu_model="CPU", memory_mib=8_000, vcpus=4, ram_gib=16.0)
MPS = Machine(accelerator="mps", gpus=1, gpu_model="Apple M2", memory_mib=10_000, vcpus=8, ram_gib=16.0)
T4X4 = Machine(
    accelerator="cuda",
    gpus=4,
    gpu_model="Tesla T4",
    memory_mib=15_109,
    compute_capability="7.5",
    vcpus=48,
    ram_gib=186.0,
)


def test_cpu_becomes_two_processes_that_meet_in_memory() -> None:
    resolved = resolve(LOCAL, CPU)
    assert (resolved.train.gpus, resolved.train.interconnect) == (2, "host")
    assert (resolved.finder.gpus, resolved.finder_differs) == (1, False)
    assert (resolved.gpu.model, resolved.gpu.memory_mib, resolved.gpu.bf16) == ("CPU", 8_000, False)
    assert resolved.gpu.peak_tflops is None
    assert (resolved.defaults.backend, resolved.defaults.precision, resolved.prices) == ("local", "fp32", ())


def test_apple_gpu_becomes_one_process() -> None:
    resolved = resolve(LOCAL, MPS)
    assert (resolved.train.gpus, resolved.train.interconnect, resolved.gpu.accelerator) == (1, "single-gpu", "mps")


def test_every_nvidia_gpu_is_used() -> None:
    resolved = resolve(LOCAL, T4X4)
    assert (resolved.train.gpus, resolved.train.interconnect) == (4, "pcie")
    assert (resolved.gpu.model, resolved.gpu.bf16, resolved.gpu.compute_capability) == ("Tesla T4", False, "7.5")


def test_known_gpu_brings_its_peak_figures_and_the_smaller_memory() -> None:
    g4dn = load.load("g4dn")
    assert isinstance(g4dn, InstanceProfile)
    resolved = resolve(LOCAL, T4X4, known=[g4dn.gpu])
    assert (resolved.gpu.model, resolved.gpu.peak_tflops, resolved.gpu.memory_mib) == ("T4", 65.0, 15_109)


def test_profile_with_hardware_stays_as_it_is_and_nothing_is_looked_at() -> None:
    def must_not_look() -> Machine:
        raise AssertionError

    profile = load.load("g5")
    assert resolve(profile, must_not_look) is profile


def test_machine_is_looked_at_when_it_is_needed() -> None:
    assert isinstance(LOCAL, DetectedProfile)
    assert resolve(LOCAL, lambda: MPS) == resolve(LOCAL, MPS)


def test_same_hardware_has_the_same_digest() -> None:
    assert resolve(LOCAL, CPU).digest() == resolve(LOCAL, CPU.model_copy()).digest()
    assert resolve(LOCAL, CPU).digest() != resolve(LOCAL, MPS).digest()


def test_this_very_machine_can_be_looked_at() -> None:
    assert resolve(LOCAL, this_machine).train.gpus >= 1
