"""Traces of what does not ship with gpuplan: kept on disk, or made by the payload in a process of its own.

Handed to planning as its `TraceSource` by the command line. This process never imports torch, and the one that does
sees no AWS credentials.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpuplan.core import payload
from gpuplan.core.frozen import Unknown
from gpuplan.planning.traces.source import HOW_TO_TRACE, Shipped, Traced
from gpuplan_job.atomic import write_atomic
from gpuplan_job.document import ContractError, sha256_hex
from gpuplan_job.step_trace import StepTrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.step_trace import TraceRequest

_NEEDED = ("torch", "torchvision")
_LONGEST_SECONDS = 900
_KEPT_FROM_TRACER = "AWS_"
"""Variables that begin so hold credentials or lead to them; a user's model has no business with them."""


class _Failed(NamedTuple):
    reason: str
    by_machine: bool
    """Whether it is this machine that cannot trace, rather than the model that cannot be traced."""


class LocalTraces:
    """Looks in turn at what ships, at what was kept, and traces; what ships at another size is the last resort."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Keep traces in `folder`; `say` is told when one is made, because it takes seconds."""
        self.folder = folder
        self._say = say
        self._shipped = Shipped()
        self._found: dict[TraceRequest, Traced | Unknown] = {}

    def find(self, request: TraceRequest) -> Traced | Unknown:
        """Return the trace of a training step, or why there is none."""
        if request not in self._found:
            self._found[request] = self._look_up(request)
        return self._found[request]

    def _look_up(self, request: TraceRequest) -> Traced | Unknown:
        shipped = self._shipped.find(request)
        if isinstance(shipped, Traced) and not shipped.size_error:
            return shipped
        versions = _versions()
        if versions is None:
            return shipped
        name = sha256_hex("\n".join([request.to_json(), payload.digest(), *versions]))
        path = self.folder / f"{name[:32]}.json"
        how = f"traced with torch {versions[0]}"
        step: StepTrace | _Failed | None = _kept(path, request)
        if step is None:
            self._say(f"tracing {_what(request)} without a GPU, once: it is kept under {self.folder}")
            step = self._trace(request, path)
        if isinstance(step, _Failed):
            # A model that does not take this size has no memory there; a machine that cannot trace says nothing of it.
            return shipped if isinstance(shipped, Traced) and step.by_machine else Unknown(unknown=step.reason)
        return Traced(step, how)

    def _trace(self, request: TraceRequest, path: Path) -> StepTrace | _Failed:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_KEPT_FROM_TRACER)}
        with tempfile.TemporaryDirectory() as folder:
            asked, made = Path(folder, "request.json"), Path(folder, "trace.json")
            asked.write_text(request.to_json(), encoding="utf-8")
            program = [sys.executable, "-m", "gpuplan_job.trace", str(asked), str(made)]
            try:
                done = subprocess.run(  # noqa: S603 - our own payload, with files of ours as its arguments
                    program, env=environment, capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                minutes = _LONGEST_SECONDS // 60
                return _Failed(f"tracing {request.model} took more than {minutes} minutes", by_machine=True)
            if done.returncode != 0:
                return _failed(done.stderr, request.model)
            text = made.read_text(encoding="utf-8")
        step = StepTrace.from_json(text)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
        return step


def _what(request: TraceRequest) -> str:
    """Return a request in words."""
    size = f"{request.inputs.length} tokens" if request.inputs.length else f"{request.inputs.height} px"
    again = ", with activation checkpointing" if request.checkpointing else ""
    return f"{request.model} ({size}, {request.arithmetic}{again})"


def _versions() -> list[str] | None:
    """Return the versions of what a trace depends on, None where they are not installed. Imports none of them."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        return None
    return [metadata.version(name) for name in _NEEDED]


def _kept(path: Path, request: TraceRequest) -> StepTrace | None:
    """Return the trace kept at `path` if it is whole, answers the request and its sources are as they were."""
    try:
        step = StepTrace.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ContractError):
        return None
    if step.request != request or any(_digest(name) != digest for name, digest in step.sources.items()):
        return None
    return step


def _digest(name: str) -> str:
    try:
        return sha256_hex(Path(name).read_bytes())
    except OSError:
        return ""


def _failed(stderr: str, model: str) -> _Failed:
    """Return why tracing failed: the payload's own words, or the last line of whatever it died of."""
    lines = stderr.strip().splitlines() or ["it ended without a word"]
    try:
        failure = json.loads(lines[-1])
        return _Failed(f"{failure['message']}; {failure['fix']}", by_machine=failure["kind"] == "device")
    except (ValueError, KeyError, TypeError):
        return _Failed(f"tracing {model} failed: {lines[-1]}; {HOW_TO_TRACE}", by_machine=True)
