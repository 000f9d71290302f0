"""The NVIDIA GPUs of this machine as nvidia-smi lists them, and which of them CUDA_VISIBLE_DEVICES leaves.

Called by `profiles.detect`. It must not import torch: opening CUDA here would cost seconds and memory on the GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from gpuplan.core.frozen import Frozen
from gpuplan.profiles.hardware import NonEmpty, PositiveInt

Runner = Callable[[Sequence[str]], str]
"""Runs a command and returns its standard output; raises OSError or SubprocessError."""

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap,uuid", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS = 10


class NvidiaGpu(Frozen):
    """One line of nvidia-smi."""

    name: NonEmpty
    """Product name, such as `NVIDIA A10G`."""
    memory_mib: PositiveInt
    """Total memory in MiB."""
    compute_capability: str | None
    """Such as `8.6`; None where nvidia-smi does not know it."""
    uuid: str
    """Such as `GPU-5c1d...`."""


def run_quietly(command: Sequence[str]) -> str:
    """Return the standard output of a command.

    Raises:
        OSError: there is no such command.
        subprocess.SubprocessError: it failed, or took longer than ten seconds.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(command[0])
    done = subprocess.run(  # noqa: S603 - fixed commands of this module, no shell
        [program, *command[1:]], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
    )
    return done.stdout


def list_gpus(run: Runner) -> list[NvidiaGpu]:
    """Return the GPUs nvidia-smi lists; none if it is missing or fails, and no line that does not read as a GPU."""
    try:
        lines = run(_QUERY).splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in lines:
        fields = [field.strip() for field in line.split(",")]
        # A broken GPU has `[N/A]` or an error text in its columns.
        if len(fields) == len(NvidiaGpu.model_fields) and fields[0] and fields[1].isdigit() and int(fields[1]) > 0:
            name, memory, text, uuid = fields
            capability = text if re.fullmatch(r"\d+\.\d", text) else None
            gpus.append(NvidiaGpu(name=name, memory_mib=int(memory), compute_capability=capability, uuid=uuid))
    return gpus


def visible(gpus: Sequence[NvidiaGpu], wanted: str | None) -> list[NvidiaGpu]:
    """Apply CUDA_VISIBLE_DEVICES (None: not set) as CUDA does: nothing counts after the first entry that names no GPU.

    An entry is an index or the start of a UUID; slices (MIG) are not looked for.
    """
    if wanted is None:
        return list(gpus)
    chosen: list[NvidiaGpu] = []
    for entry in (entry.strip() for entry in wanted.split(",")):
        if entry.isdigit() and int(entry) < len(gpus):
            chosen.append(gpus[int(entry)])
        elif entry and (named := [gpu for gpu in gpus if gpu.uuid.startswith(entry)]):
            chosen.append(named[0])
        else:
            break
    return chosen
