"""Rebuilds the traces that `memory_accuracy.py` replays: `python benchmarks/memory_accuracy.py --trace`.

Needs torch, torchvision, transformers 4.51 and timm 0.6.7 (benchmarks/README.md says how); takes minutes. Each trace is
made in a process of its own, as gpuplan makes it, and its seconds are kept with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gpuplan_job.step_trace import StepTrace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpuplan_job.step_trace import TraceRequest

HERE = Path(__file__).parent


def packages() -> dict[str, str]:
    """Return the versions of the packages that the models come from."""
    return {name: version(name) for name in ("torch", "torchvision", "transformers", "timm")}


def traces(requests: Iterable[TraceRequest]) -> Iterator[tuple[StepTrace, float]]:
    """Yield the trace of each request and the seconds of its process; say which cannot be traced, and why."""
    for request in requests:
        found = trace(request)
        if found is not None:
            yield found


def trace(request: TraceRequest) -> tuple[StepTrace, float] | None:
    """Return a request's trace and the seconds of its process, imports and all; None where it has none."""
    with TemporaryDirectory() as folder:
        wanted, result = Path(folder, "request.json"), Path(folder, "trace.json")
        wanted.write_text(request.to_json(), encoding="utf-8")
        path = os.pathsep.join([str(HERE), *sys.path])
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "gpuplan_job.trace", str(wanted), str(result)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"no trace: {request.model}: {last}", file=sys.stderr)
            return None
        return StepTrace.from_json(result.read_text(encoding="utf-8")), seconds
