"""Traces one training step of a request at two batches and returns it as a straight line in the batch.

Called by `__main__` in a process of its own. Nothing is computed: tensors are fake, sizes are exact.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gpuplan_job import activation_checkpointing, own_description, user_code
from gpuplan_job.failures import JobError
from gpuplan_job.step_trace import Allocations, Operations, StepTrace
from gpuplan_job.trace import engine, fake_cuda, subject
from gpuplan_job.trace.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from gpuplan_job.step_trace import TraceRequest
    from gpuplan_job.trace.recorder import Kernel, Recording

BATCHES = (8, 16)
"""Where the line is drawn through: multiples of 8, where kernels pad nothing, and above what is special-cased."""


def trace(request: TraceRequest) -> StepTrace:
    """Return the trace of a training step.

    Raises:
        JobError: the network cannot be built or traced, with the reason.
    """
    fake_cuda.check()
    network = subject.build(request)
    if request.checkpointing:
        activation_checkpointing.apply(network, preserve_rng_state=False)
    real = subject.batches(request, BATCHES)
    try:
        with _quiet(), fake_cuda.pretend_cuda(), FakeTensorMode(allow_non_fake_inputs=True):
            fake_cuda.onto_fake_gpu(network)
            low, high = (_record(network, request, *each) for each in zip(real, BATCHES, strict=True))
    except JobError:
        raise
    except user_code.FAILURES as error:
        said, *_ = (str(error).strip() or "no message").splitlines()
        raise JobError(
            "user-code",
            f"{request.model} cannot be traced: {type(error).__name__}: {said}",
            "custom CUDA operators, cuDNN's recurrent layers and code that depends on values have no trace: "
            "gpuplan launch --pipeline lr measures it",
        ) from error
    return _line(network, request, low, high)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what torch says of fake tensors; what fails is raised."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class _Recorded:
    """A recording with what is around it."""

    recording: Recording
    modules: list[str]
    outputs: list[int]
    """Allocations that a plain loop holds until its next forward pass is over."""
    inputs: list[int]
    """Bytes of each input tensor."""


def _record(network: nn.Module, request: TraceRequest, real: object, size: int) -> _Recorded:
    samples = subject.on_gpu(real, request.inputs, size)
    parts = list(own_description.tensors(samples))
    sizes = [tensor.untyped_storage().nbytes() for tensor in parts]
    recorder = Recorder(network, [*network.parameters(), *network.buffers(), *parts])
    # A collection in the middle would free what only a cycle holds, at a moment that depends on anything.
    gc.disable()
    try:
        with recorder:
            outputs = _step(network, samples, request, recorder)
            recording = recorder.finish(p.grad for p in network.parameters() if p.grad is not None)
    finally:
        gc.enable()
        for parameter in network.parameters():
            parameter.grad = None
    return _Recorded(recording, recorder.modules, outputs, sizes)


def _step(network: nn.Module, samples: object, request: TraceRequest, recorder: Recorder) -> list[int]:
    with torch.autocast("cuda", dtype=torch.float16, enabled=request.arithmetic == "mixed"):
        outcome = subject.forward(network, samples, request.inputs)
    outputs = [number for tensor in outcome.outputs if (number := recorder.index(tensor)) is not None]
    loss = outcome.loss
    del outcome
    recorder.begin_backward()
    engine.backward(loss)
    return outputs


def _line(network: nn.Module, request: TraceRequest, low: _Recorded, high: _Recorded) -> StepTrace:
    """Return the straight line through two recordings.

    Raises:
        JobError: they are not one program, or the model has no parameter to train.
    """
    one, other = low.recording, high.recording
    same = (one.forward, one.backward) == (other.forward, other.backward)
    if not same or [a.operator for a in one.allocations] != [a.operator for a in other.allocations]:
        raise JobError(
            "user-code",
            f"{request.model} does something else at batch {BATCHES[1]} than at {BATCHES[0]}: no line can be drawn",
            "gpuplan launch --pipeline lr measures it",
        )
    owners = {name: number for number, name in enumerate(low.modules)}
    named = [(owners[name.rpartition(".")[0]], p) for name, p in network.named_parameters()]
    trained = [(owner, p) for owner, p in named if p.requires_grad]
    sizes = [_through(a.nbytes, b.nbytes) for a, b in zip(one.allocations, other.allocations, strict=True)]
    return StepTrace(
        request=request,
        modules=low.modules,
        trainable=[p.numel() * p.element_size() for _, p in trained],
        trainable_module=[owner for owner, _ in trained],
        frozen=[p.numel() * p.element_size() for _, p in named if not p.requires_grad],
        buffers=[b.numel() * b.element_size() for b in network.buffers()],
        inputs=[size / BATCHES[0] for size in low.inputs],
        allocations=Allocations(
            kind=[a.kind for a in one.allocations],
            module=[a.module for a in one.allocations],
            fixed=[fixed for fixed, _ in sizes],
            per_sample=[per_sample for _, per_sample in sizes],
        ),
        outputs=low.outputs,
        forward=one.forward,
        backward=one.backward,
        operations=_operations(one.kernels, other.kernels),
        guesses=one.guesses,
        versions=versions(),
        sources=subject.sources(request),
    )


def versions() -> dict[str, str]:
    """Return the versions of what a trace depends on."""
    import torchvision

    return {"torch": torch.__version__, "torchvision": torchvision.__version__}


def _through(low: float, high: float) -> tuple[float, float]:
    """Return the fixed part and the part per sample of a figure seen at both batches."""
    per_sample = (high - low) / (BATCHES[1] - BATCHES[0])
    return low - per_sample * BATCHES[0], per_sample


def _operations(low: list[Kernel], high: list[Kernel]) -> Operations:
    lines = [
        (a.name, *_through(a.flops, b.flops), *_through(a.nbytes, b.nbytes), a.forward)
        for a, b in zip(low, high, strict=True)
    ]
    rows = list(Counter(lines).items())  # equal kernels once, in order of their first appearance
    return Operations(
        name=[row[0] for row, _ in rows],
        count=[count for _, count in rows],
        flops_fixed=[row[1] for row, _ in rows],
        flops_per_sample=[row[2] for row, _ in rows],
        bytes_fixed=[row[3] for row, _ in rows],
        bytes_per_sample=[row[4] for row, _ in rows],
        forward=[row[5] for row, _ in rows],
    )
