"""Small traces made by hand, for tests of what reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.planning.traces.source import Traced
from gpuplan_job.step_trace import Allocations, InputSpec, Operations, StepTrace, TraceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIB = 1 << 20
ACTIVATION, HALF_WEIGHT, GRADIENT, TEMPORARY = range(4)


def trace(
    weights: Sequence[int] = (40 * MIB,), activation: int = 2 * MIB, *, mixed: bool = False, logits: int = 0
) -> StepTrace:
    """Return the step of a chain: each layer keeps an activation and, in mixed precision, a copy of its weights.

    The backward pass goes through the layers from the last to the first: a temporary of the activation's size, the
    layer's gradient, then what the layer kept is freed.
    """
    kind, fixed, per_sample, module = [], [], [], []
    forward: list[int] = []
    backward: list[int] = []

    def add(what: int, size: float, rate: float, layer: int) -> int:
        kind.append(what)
        fixed.append(size)
        per_sample.append(rate)
        module.append(layer)
        return len(kind)

    kept = []
    for layer, weight in enumerate(weights, start=1):
        mine = [add(ACTIVATION, 0.0, float(activation), layer)]
        if mixed:
            mine.append(add(HALF_WEIGHT, weight / 2, 0.0, layer))
        kept.append(mine)
        forward += mine
    outputs = []
    if logits:
        outputs = [add(ACTIVATION, 0.0, float(logits), 0)]
        forward += outputs
        backward += [-outputs[0]]
    for layer in range(len(weights), 0, -1):
        passing = add(TEMPORARY, 0.0, float(activation), layer)
        gradient = add(GRADIENT, float(weights[layer - 1]), 0.0, layer)
        backward += [passing, gradient, *(-number for number in kept[layer - 1]), -passing]
    return StepTrace(
        request=TraceRequest("chain", InputSpec("images", height=8, width=8, classes=10), "mixed" if mixed else "fp32"),
        modules=["", *(f"layer{i}" for i in range(1, len(weights) + 1))],
        trainable=list(weights),
        trainable_module=list(range(1, len(weights) + 1)),
        frozen=[],
        buffers=[512],
        inputs=[768.0, 8.0],
        allocations=Allocations(kind, module, fixed, per_sample),
        outputs=[number - 1 for number in outputs],
        forward=forward,
        backward=backward,
        operations=Operations(
            name=["convolution", "convolution_backward"],
            count=[len(weights), len(weights)],
            flops_fixed=[0.0, 0.0],
            flops_per_sample=[1e8, 2e8],
            bytes_fixed=[float(weights[0]), 2.0 * weights[0]],
            bytes_per_sample=[2.0 * activation, 4.0 * activation],
            forward=[True, False],
        ),
        guesses=0,
        versions={"torch": "0"},
    )


def of_kernels(operations: Operations, trainable: int = 4) -> StepTrace:
    """Return a step of which only its kernels and the bytes of its one weight matter."""
    return StepTrace(
        request=TraceRequest("some:net", InputSpec("images"), "mixed"),
        modules=[""],
        trainable=[trainable],
        trainable_module=[0],
        frozen=[],
        buffers=[],
        inputs=[],
        allocations=Allocations([], [], [], []),
        outputs=[],
        forward=[],
        backward=[],
        operations=operations,
        guesses=0,
        versions={},
    )


def traced(step: StepTrace | None = None, size_error: float = 0.0) -> Traced:
    """Return a trace with its standing."""
    return Traced(step or trace(), "made by hand", size_error)


class Known:
    """A source that knows the traces it was given, by model."""

    def __init__(self, known: Mapping[str, Traced]) -> None:
        self.known = known

    def find(self, request: TraceRequest) -> Traced | Unknown:
        """Return the model's trace, whatever else is asked."""
        return self.known.get(request.model, Unknown(unknown=f"no trace of {request.model}; make one"))
