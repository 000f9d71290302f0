"""The command and the environment of a job's processes: the task itself, or torchrun on one machine or on several.

Called by `launch`. Standard library only; it starts nothing.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpuplan_job.contract import JOB_DIR_VARIABLE
from gpuplan_job.failures import RANKS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpuplan_job.contract import JobInput

_ANOTHER_JOBS = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_.*|ROLE_.*|MASTER_.*|TORCHELASTIC_.*|PET_.*)$"
)
"""Variables of a torchrun that the launcher itself may run under: they would be taken for our own."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a job and this one's place among them; `rank` 0 is the machine at `address`, which all meet at.

    `interface` is the network interface between them, None on a single machine, whose processes use loopback.
    """

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500
    interface: str | None = None

    def processes_here(self, world_size: int) -> int:
        """Return how many of a job's processes this machine runs."""
        return world_size // self.count

    def ranks_here(self, world_size: int) -> range:
        """Return the ranks of those processes."""
        processes = self.processes_here(world_size)
        return range(self.rank * processes, (self.rank + 1) * processes)


def task_of(job_input: JobInput) -> Literal["train", "lr_find", "find_batch"]:
    """Return the module that does a job."""
    if job_input.train:
        return "train"
    return "lr_find" if job_input.sweep else "find_batch"


def command(job_input: JobInput, source: Path, folder: Path, nodes: Nodes) -> list[str]:
    """Return the command of a job's child: the task itself, or this Python's torchrun; either way watched by `rank`."""
    task = f"gpuplan_job.{task_of(job_input)}"
    watched = ["-m", "gpuplan_job.rank", str(folder / RANKS_FOLDER), task, str(source), str(folder)]
    world_size = job_input.batch.world_size
    if world_size == 1:
        return [sys.executable, *watched]
    if nodes.count == 1:
        meeting = ["--standalone", "--local-addr=127.0.0.1"]
    else:
        meeting = [f"--nnodes={nodes.count}", f"--node-rank={nodes.rank}"]
        meeting += [f"--master-addr={nodes.address}", f"--master-port={nodes.port}"]
    torchrun = ["torch.distributed.run", *meeting, f"--nproc-per-node={nodes.processes_here(world_size)}"]
    return [sys.executable, "-m", *torchrun, *watched]


def environment(base: Mapping[str, str], folder: Path, processes: int, cpus: int, nodes: Nodes) -> dict[str, str]:
    """Return the environment of the `processes` of a job on a machine with `cpus`, from the launcher's own."""
    package_parent = str(Path(__file__).resolve().parents[1])
    # Absolute: where a job runs code of the user's own, its processes start in that code's folder.
    path = [os.path.abspath(part) for part in base.get("PYTHONPATH", "").split(os.pathsep) if part]  # noqa: PTH100 - text
    # site-packages is found anyway, and ahead of the standard library it might hide a part of it.
    if package_parent not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        path.insert(0, package_parent)
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cpus // processes)),
        # Threads that wait asleep: spinning, they starve each other as soon as anything else wants a core.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    fixed = {
        JOB_DIR_VARIABLE: str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        # The folder a job happens to start in must not hide gpuplan_job or torch.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    network = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), nodes.interface or loopback)
    # Between machines it is the one that joins them; on one machine its owner may have had a reason for another.
    (defaults if nodes.interface is None else fixed).update(network)
    inherited = {name: value for name, value in base.items() if not _ANOTHER_JOBS.match(name)}
    return {**defaults, **inherited, **fixed}
