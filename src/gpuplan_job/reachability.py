"""Lets all ranks meet before the training: a small all-reduce, with the missing named in seconds instead of minutes.

Called by `machine_probe` in each rank of several. It leaves no process group behind: the training makes its own.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpuplan_job.process import Process

_ARRIVAL_SECONDS = 90.0
"""Between the first rank and the last: one of them may import torch from a cold disk."""
_REDUCE_SECONDS = 30.0
_POLL_SECONDS = 0.05
_KEEP: list[Store] = []
"""The store lives as long as the process: on some backends rank 0 serves it to the others."""


def meet(process: Process, device: torch.device) -> str:
    """Return how the ranks met, such as `NCCL ok in 1.2 s`; a collective.

    Raises:
        JobError: a rank did not come, or the ranks cannot reach each other.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    started = time.monotonic()
    store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=_ARRIVAL_SECONDS))))
    _KEEP.append(store)
    apart = PrefixStore("gpuplan-preflight", store)
    missing = absent(apart, "here", process, _ARRIVAL_SECONDS)
    if missing:
        raise not_there(missing, process.world_size, _ARRIVAL_SECONDS)
    reduce(apart, backend, device, process)
    missing = absent(apart, "done", process, _REDUCE_SECONDS)
    if missing:
        raise unreachable(missing, backend, _REDUCE_SECONDS)
    return f"{backend.upper() if backend == 'nccl' else backend} ok in {time.monotonic() - started:.1f} s"


def absent(
    store: Store,
    what: str,
    process: Process,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[int]:
    """Say that this rank has come to a point and return the ranks that have not within so many seconds."""
    store.set(f"{what}/{process.rank}", "1")
    deadline = clock() + seconds
    missing = [rank for rank in range(process.world_size) if rank != process.rank]
    while True:
        missing = [rank for rank in missing if not store.check([f"{what}/{rank}"])]
        if not missing or clock() >= deadline:
            return missing
        time.sleep(_POLL_SECONDS)


def reduce(
    store: Store, backend: str, device: torch.device, process: Process, seconds: float = _REDUCE_SECONDS
) -> None:
    """Sum a one over all ranks, in a thread: what cannot reach its peers is stuck in C and cannot be interrupted.

    Raises:
        JobError: it failed, or did not end in time.
    """
    errors: list[BaseException] = []
    sums: list[float] = []

    def run() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            distributed.init_process_group(
                backend,
                store=PrefixStore("group", store),
                rank=process.rank,
                world_size=process.world_size,
                # Longer than we wait: its own watchdog would end the process without a word.
                timeout=timedelta(seconds=4 * seconds),
            )
            one = torch.ones(1, device=device)
            distributed.all_reduce(one)
            sums.append(one.item())
            distributed.destroy_process_group()
        except BaseException as error:  # noqa: BLE001 - it is reported below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        first = str(errors[0]).partition("\n")[0]
        text = f"{backend} cannot sum over {process.world_size} ranks: {type(errors[0]).__name__}: {first}"
        raise JobError("communication", text, _fix(backend))
    if thread.is_alive():
        others = [rank for rank in range(process.world_size) if not store.check([f"done/{rank}"])]
        raise unreachable(others, backend, seconds)
    if sums != [float(process.world_size)]:
        text = f"{backend} summed {process.world_size} ones to {sums[0]:g}"
        raise JobError("communication", text, "check the GPUs: their links give wrong results")


def not_there(missing: Sequence[int], world_size: int, seconds: float) -> JobError:
    """Return the failure of ranks that never came."""
    ranks = ", ".join(map(str, missing))
    text = f"rank {ranks} of {world_size} did not start within {seconds:.0f} s of the others"
    return JobError("communication", text, "read that rank's lines in the log (gpuplan logs RUN): it hung or died")


def unreachable(waiting: Sequence[int], backend: str, seconds: float) -> JobError:
    """Return the failure of ranks that came and cannot reach each other."""
    ranks = ", ".join(map(str, waiting))
    interface = os.environ.get(f"{backend.upper()}_SOCKET_IFNAME", "chosen by itself")
    text = f"{backend} did not reach all ranks within {seconds:.0f} s (interface {interface}): rank {ranks} still waits"
    return JobError("communication", text, _fix(backend))


def _fix(backend: str) -> str:
    name = f"{backend.upper()}_SOCKET_IFNAME"
    return f"let the machines reach each other on all ports (security group), or name the interface in {name}"
