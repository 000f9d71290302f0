"""Where planning gets the trace of a training step from, and what it asks for. Pure; `cli` and tests bring the source.

A source answers from what ships, from a cache or by tracing; planning neither knows nor cares which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from gpuplan.core.frozen import Unknown
from gpuplan.core.names import did_you_mean
from gpuplan.planning.traces import shipped
from gpuplan_job.document import canonical_json
from gpuplan_job.own import is_own
from gpuplan_job.step_trace import InputSpec, StepTrace, TraceRequest

if TYPE_CHECKING:
    from gpuplan.workload.schema import Workload
    from gpuplan_job.contract import DataDescription, Precision

HOW_TO_TRACE = "pip install 'gpuplan[local]'    then the same command traces it, once and without a GPU"


@dataclass(frozen=True, eq=False)
class Traced:
    """A trace with its standing. Each is equal to itself only, so that what is computed of it can be kept."""

    step: StepTrace
    how: str
    """Where it comes from, for people."""
    size_error: float = 0.0
    """Share by which its sizes may be off because this image size was not traced."""


class TraceSource(Protocol):
    """Answers a request with the same object each time it is asked."""

    def find(self, request: TraceRequest) -> Traced | Unknown:
        """Return the trace of a training step, or why there is none and how to get it."""
        ...


class Shipped:
    """The source that has only what ships with gpuplan."""

    def __init__(self) -> None:
        self._found: dict[TraceRequest, Traced | Unknown] = {}

    def find(self, request: TraceRequest) -> Traced | Unknown:
        """Return a trace that ships, scaled to the request where need be."""
        if request not in self._found:
            self._found[request] = self._look_up(request)
        return self._found[request]

    @staticmethod
    def _look_up(request: TraceRequest) -> Traced | Unknown:
        found = shipped.find(request)
        if found is not None:
            return Traced(found.trace, found.how, found.size_error)
        return Unknown(unknown=f"{_missing(request)}; {HOW_TO_TRACE}")


def _missing(request: TraceRequest) -> str:
    if ":" in request.model:
        return f"no trace of {request.model}"
    if request.model not in shipped.names():
        return f"{request.model!r} is no torchvision model; {did_you_mean(request.model, shipped.names())}"
    if request.checkpointing:
        return f"no trace of {request.model} with activation checkpointing ships with gpuplan"
    side = f"{request.inputs.width} x {request.inputs.height}"
    return f"no trace of {request.model} near {side} px ships with gpuplan; it may not take images that small"


def request_for(
    model: str,
    data: DataDescription,
    precision: Precision,
    *,
    image_size: int | None = None,
    checkpointing: bool = False,
    tokens: int = 0,
) -> TraceRequest:
    """Return what to ask for a model on images of a data set, or on sequences of `tokens` where that is not 0.

    `image_size` is the side in pixels that images are resized to.
    """
    return TraceRequest(
        model=model,
        inputs=InputSpec(kind="tokens", channels=0, height=0, width=0, classes=0, length=tokens)
        if tokens
        else InputSpec(
            kind="images",
            channels=data.channels,
            height=image_size or data.height,
            width=image_size or data.width,
            classes=data.classes,
        ),
        arithmetic="fp32" if precision == "fp32" else "mixed",
        checkpointing=checkpointing,
    )


def of_own_code(request: TraceRequest, workload: Workload, files_sha256: str) -> TraceRequest:
    """Return a request with what a user's own model, or own data, are made of; others ask as before.

    `files_sha256` is the digest of the user's files: with other files the trace is another.
    """
    if is_own(workload.model):
        arguments = canonical_json(workload.model_args)
        request = replace(request, model_args=arguments, code=files_sha256)
        if is_own(workload.data):
            request = replace(request, data=workload.data, data_args=canonical_json(workload.data_args))
    return request
