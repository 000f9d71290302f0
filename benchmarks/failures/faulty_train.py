"""A training that fails as the variable FAULT says, on rank FAULT_RANK; takes the place of gpuplan_job.train.

Started by `benchmarks/failure_causes.py` in a copy of the payload whose own training is `healthy_train`.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from gpuplan_job import data, fail_fast, loaders, model, process_tree

FAULT, RANK = os.environ["FAULT"], int(os.environ.get("RANK", "0"))
MINE = int(os.environ["FAULT_RANK"]) in {RANK, -1}
AFTER_STEPS = 5
_GIB = 1024**3


def own(function: str) -> Any:  # noqa: ANN401 - a function of any kind
    """Return a function of the user's own module."""
    return getattr(importlib.import_module("own_model"), function)


def now() -> None:
    """Note the time of the fault, once."""
    path = Path(os.environ["FAULT_TIME"])
    if not path.exists():
        path.write_text(str(time.time()))


class Faulty(nn.Module):
    """A network that fails after a few training steps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.steps = 0

    def forward(self, images: torch.Tensor) -> Any:  # noqa: ANN401 - as nn.Module has it
        """Fail, if it is time to."""
        self.steps += self.training
        if self.training and self.steps == AFTER_STEPS and MINE:
            images = fail(images)
        logits = self.network(images)
        if FAULT == "exception in backward" and self.steps == AFTER_STEPS and MINE:
            now()
            logits.register_hook(own("fail_backward"))
        return logits


def fail(images: torch.Tensor) -> torch.Tensor:  # noqa: C901, PLR0912 - one branch a fault
    """Do what FAULT says."""
    if FAULT not in {"exception in backward", "NaN"}:
        now()
    if FAULT == "exception in forward":
        own("fail_forward")(images)
    if FAULT == "out of memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity")
    if FAULT == "memory limit":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + _GIB // 4, held + _GIB // 4))
        torch.ones(_GIB)
    if FAULT.startswith("sigkill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT == "segfault":
        ctypes.string_at(0)
    if FAULT == "abort":
        os.abort()
    if FAULT == "exit":
        print("nothing to do for me", flush=True)
        os._exit(3)
    if FAULT == "missing import":
        importlib.import_module("a_module_that_is_not_there")
    if FAULT == "killed worker":
        multiprocessing.active_children()[0].kill()
    if FAULT == "file too large":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    if FAULT == "stuck rank" and RANK == 1:
        time.sleep(10_000)
    if FAULT == "unequal collectives" and RANK == 1:
        distributed.all_reduce(torch.zeros(7))
        distributed.all_reduce(torch.zeros(7))
    return images


class FaultyData(torch.utils.data.Dataset[Any]):
    """Samples of which one cannot be read, or has a label that no class has."""

    def __init__(self, samples: Any) -> None:  # noqa: ANN401 - what loaders take
        self.samples = samples

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - what the data give
        """Return a sample, or fail."""
        image, label = self.samples[index]
        if MINE and FAULT.startswith("bad file") and index % 20 == 0:
            now()
            raise data.DataError(f"cannot read the image cat/{index}.png: truncated; replace or remove it")
        if MINE and FAULT == "label out of range" and index % 20 == 0:
            now()
            label = 99
        return image, label

    def __len__(self) -> int:
        return loaders.sample_count(self.samples)


def main() -> int:
    """Train with the fault built in."""
    build, load, start = model.build, data.load, distributed.init_process_group

    def short(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - handed on
        start(*arguments, **options | {"timeout": dt.timedelta(seconds=15)})

    def faulty(*arguments: Any) -> tuple[Any, Any]:  # noqa: ANN401 - handed on
        train_set, val_set = load(*arguments)
        return FaultyData(train_set), val_set

    model.build = lambda *arguments: Faulty(build(*arguments))
    if FAULT.startswith(("bad file", "label")) or FAULT == "killed worker":
        vars(data)["load"] = faulty
    if FAULT == "stuck rank":
        distributed.init_process_group = short
    if "FAULT_BARE" in os.environ:
        bare()
    code: int = importlib.import_module("gpuplan_job.healthy_train").main(sys.argv[1:])
    return code


def bare() -> None:
    """Take gpuplan's own reporting away: a rank that fails prints its trace and ends as a plain script does."""
    fail_fast.FailFast.on_exception = lambda *_: None  # type: ignore[method-assign] # what a plain script lacks
    vars(fail_fast)["leave"] = lambda: sys.exit(1)


if __name__ == "__main__":
    process_tree.die_with_parent()
    sys.exit(main())
