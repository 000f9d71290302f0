"""One training step on paper: what it allocates, computes and moves, each as a straight line in the batch.

Written by `trace` on a machine with torch, read by the client's planning. Standard library only; it traces nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gpuplan_job.document import ContractError, Document

KINDS = ("activation", "half-precision weight", "gradient", "temporary")
"""What an allocation of the step is, by position. Activations and half-precision weights are made in the forward pass
and kept for the backward pass; gradients outlive the backward pass; temporaries are everything else."""

InputKind = Literal["images", "tokens"]
Arithmetic = Literal["fp32", "mixed"]


@dataclass(frozen=True)
class InputSpec:
    """What a sample is: an image with a class, or a sequence of tokens that is its own target."""

    kind: InputKind
    channels: int = 3
    height: int = 224
    width: int = 224
    classes: int = 1000
    length: int = 0
    """Tokens of a sequence; 0 for images."""


@dataclass(frozen=True)
class TraceRequest(Document):
    """What is to be traced."""

    SCHEMA: ClassVar[str] = "gpuplan.trace-request/1"

    model: str
    """Name of a torchvision classification model, or `module:callable` for a class or a function without arguments."""
    inputs: InputSpec
    arithmetic: Arithmetic
    checkpointing: bool = False
    """Recompute the activations of each repeated block in the backward pass."""
    model_args: str = "{}"
    """Constructor arguments of a model of the user's own, as canonical JSON: a request can be looked up by."""
    data: str = ""
    """Data of the user's own, `module:Attribute`, whose batches are traced as they are; empty for others."""
    data_args: str = "{}"
    code: str = ""
    """Digest of the user's code where it is shipped to the job; empty for code that is looked for where one stands."""


@dataclass(frozen=True)
class Allocations:
    """The step's allocations as columns, in order of their first use; each takes fixed + per_sample x batch bytes."""

    kind: list[int]
    """Index into KINDS."""
    module: list[int]
    """Index into the trace's modules: where it was made."""
    fixed: list[float]
    per_sample: list[float]

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        if len({len(self.kind), len(self.module), len(self.fixed), len(self.per_sample)}) != 1:
            raise ContractError("Allocations: columns differ in length")


@dataclass(frozen=True)
class Operations:
    """Kernels of the step as columns, equal ones together; flops and bytes are each fixed + per_sample x batch.

    A multiply-add counts as two. Bytes are those of all tensors read and written, once each.
    """

    name: list[str]
    """Operator, and for convolutions `/depthwise` or `/grouped`: `convolution_backward/depthwise`."""
    count: list[int]
    flops_fixed: list[float]
    flops_per_sample: list[float]
    bytes_fixed: list[float]
    bytes_per_sample: list[float]
    forward: list[bool]
    """Whether it belongs to the forward pass; a recomputed one does not."""

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        columns = (self.name, self.count, self.flops_fixed, self.flops_per_sample, self.bytes_fixed)
        if len({len(column) for column in (*columns, self.bytes_per_sample, self.forward)}) != 1:
            raise ContractError("Operations: columns differ in length")


@dataclass(frozen=True)
class StepTrace(Document):
    """A training step of one model on one kind of input, in one arithmetic.

    `forward` and `backward` are programs over the allocations: i + 1 makes allocation i, -(i + 1) frees it. Weights,
    buffers, inputs and the optimizer are not in them; whoever reads the trace puts them around it.
    """

    SCHEMA: ClassVar[str] = "gpuplan.step-trace/1"

    request: TraceRequest
    modules: list[str]
    """Dotted paths of the model's modules; the first is the model itself, empty."""
    trainable: list[int]
    """Bytes of each parameter that has a gradient, in the model's order."""
    trainable_module: list[int]
    """Index of the module that owns each of them."""
    frozen: list[int]
    """Bytes of the other parameters."""
    buffers: list[int]
    inputs: list[float]
    """Bytes of a sample of each input tensor."""
    allocations: Allocations
    outputs: list[int]
    """Allocations that a plain loop holds until its next forward pass is over: logits."""
    forward: list[int]
    backward: list[int]
    operations: Operations
    guesses: int
    """How often the model asked for a tensor's value, which a trace does not have, and was told 1."""
    versions: dict[str, str]
    sources: dict[str, str] = field(default_factory=dict)
    """Digests of the files of the user's own code that the model was made by; empty for a torchvision model."""

    @property
    def parameters(self) -> int:
        """Elements of all parameters, taken to be fp32."""
        return (sum(self.trainable) + sum(self.frozen)) // 4

    def __post_init__(self) -> None:
        """Refuse programs that free what was not made, make something twice or name no allocation."""
        live: set[int] = set()
        made: set[int] = set()
        for step in (*self.forward, *self.backward):
            index = abs(step) - 1
            if step > 0 and index not in made and index < len(self.allocations.kind):
                made.add(index)
                live.add(index)
            elif step < 0 and index in live:
                live.remove(index)
            else:
                raise ContractError(f"StepTrace: the program's step {step} means nothing there")
        if len(self.trainable) != len(self.trainable_module):
            raise ContractError("StepTrace: trainable and trainable_module differ in length")
