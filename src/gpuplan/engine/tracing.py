"""Traces of what does not ship with gpuplan: kept on disk, or made by the payload in a process of its own.

Handed to planning as its `TraceSource` by the command line. This process never imports torch, and the one that does
sees no AWS credentials.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.core import payload
from gpuplan.core.frozen import Unknown
from gpuplan.engine.payload_process import PAYLOAD_PROCESS, Failed
from gpuplan.planning.traces.source import HOW_TO_TRACE, Shipped, Traced
from gpuplan_job.atomic import write_atomic
from gpuplan_job.document import ContractError, sha256_hex
from gpuplan_job.step_trace import StepTrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.step_trace import TraceRequest

_TRACER = "gpuplan_job.trace"


class LocalTraces:
    """Looks in turn at what ships, at what was kept, and traces; what ships at another size is the last resort."""

    def __init__(self, folder: Path, say: Callable[[str], None], code: bytes | None = None) -> None:
        """Keep traces in `folder`; `say` is told when one is made, because it takes seconds.

        `code` is the archive of the user's code; without one a model of theirs is looked for in the current folder.
        """
        self.folder = folder
        self._code = code
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
        versions = PAYLOAD_PROCESS.versions()
        if versions is None:
            return shipped
        name = sha256_hex("\n".join([request.to_json(), payload.digest(), *versions]))
        path = self.folder / f"{name[:32]}.json"
        how = f"traced with torch {versions[0]}"
        step: StepTrace | Failed | None = _kept(path, request)
        if step is None:
            self._say(f"tracing {_what(request)} without a GPU, once: it is kept under {self.folder}")
            step = self._trace(request, path)
        if isinstance(step, Failed):
            # A model that does not take this size has no memory there; a machine that cannot trace says nothing of it.
            by_machine = step.kind in {None, "device"}
            return shipped if isinstance(shipped, Traced) and by_machine else Unknown(unknown=_why(step, request.model))
        return Traced(step, how)

    def _trace(self, request: TraceRequest, path: Path) -> StepTrace | Failed:
        answer = PAYLOAD_PROCESS.ask(_TRACER, request, self._code)
        if isinstance(answer, Failed):
            return answer
        step = StepTrace.from_json(answer)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, answer)
        return step


def _what(request: TraceRequest) -> str:
    """Return a request in words."""
    size = f"{request.inputs.length} tokens" if request.inputs.length else f"{request.inputs.height} px"
    again = ", with activation checkpointing" if request.checkpointing else ""
    return f"{request.model} ({size}, {request.arithmetic}{again})"


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


def _why(failed: Failed, model: str) -> str:
    """Return why tracing failed: the payload's own words, or the last line of whatever it died of."""
    if failed.kind is None:
        return f"tracing {model} failed: {failed.message}; {HOW_TO_TRACE}"
    return f"{failed.message}; {failed.fix}"
