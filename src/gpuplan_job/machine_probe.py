"""Looks at the machine for `preflight`: GPUs, driver, memory, disk. Thin: it decides nothing.

Called by `train` and `lr_find` in every rank, before data are read or a network is built. A broken GPU can hang
whatever asks it, so all of it happens within a deadline.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from gpuplan_job import preflight, reachability, runtime
from gpuplan_job.contract import CHECKPOINTS_FOLDER, Expected
from gpuplan_job.failures import JobError
from gpuplan_job.preflight import Gpu, Machine, Needs

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.contract import JobInput
    from gpuplan_job.process import Process

T = TypeVar("T")

_SECONDS = 30.0
_ASK_SECONDS = 5.0
_GIB = 1024**3
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is measured, not written to


def check(job_input: JobInput, folder: Path, process: Process) -> None:
    """Look at this rank's machine, then let all ranks meet; rank 0 says in the log what was found.

    Raises:
        JobError: the job cannot run here.
    """
    needs = Needs(job_input.device, process.local_world_size, job_input.expected or Expected())
    machine = within(_SECONDS, "the GPUs", lambda: probe(folder, process.local_rank))
    found = preflight.problem(machine, needs)
    if found is not None:
        raise found
    reached = ""
    if process.world_size > 1:
        device = runtime.device(job_input.device, process.local_rank, process.local_world_size)
        reached = reachability.meet(process, device)
    if process.rank == 0:
        sys.stderr.write(preflight.summary(machine, needs, reached) + "\n")


def probe(folder: Path, local_rank: int) -> Machine:
    """Return what is there for the rank `local_rank` of a job that writes into a folder."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    checkpoints = folder / CHECKPOINTS_FOLDER
    gpu = _gpu(local_rank) if local_rank < gpus else None
    return Machine(
        gpus=gpus,
        gpu=gpu,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()) if gpus else (),
        driver=_driver(),
        disk_free_gib=shutil.disk_usage(checkpoints if checkpoints.exists() else folder).free / _GIB,
        shared_memory_gib=shutil.disk_usage(_SHARED_MEMORY).free / _GIB if _SHARED_MEMORY.is_dir() else None,
        holders=_holders(local_rank) if gpu is not None else "",
    )


def within(seconds: float, what: str, look: Callable[[], T]) -> T:
    """Return what `look` returns, or raise what it raises.

    Raises:
        JobError: it did not come back in time.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(look())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it belongs
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        fix = "check them with nvidia-smi and dmesg (Xid errors); on AWS another instance is the quickest cure"
        raise JobError("device", f"{what} did not answer within {seconds:.0f} s", fix)
    return answers[0]


def _gpu(index: int) -> Gpu:
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    total = properties.total_memory / _GIB
    fault = runtime.gpu_fault(index)
    if fault is not None:
        return Gpu(properties.name, capability, 0.0, total, fault=fault)
    free, of = torch.cuda.mem_get_info(index)
    return Gpu(properties.name, capability, free / _GIB, of / _GIB)


def _driver() -> str | None:
    with suppress(OSError):
        return preflight.driver_version(_DRIVER_FILE.read_text())
    return None


def _holders(index: int) -> str:
    """Return who else uses a GPU, as far as nvidia-smi can tell: inside a container it often cannot."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = ["--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits", f"--id={index}"]
    try:
        done = subprocess.run(  # noqa: S603 - NVIDIA's own program
            [program, *query], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    rows = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    return ", ".join(f"process {pid.strip()} with {mib.strip()} MiB" for pid, mib in rows)
