"""A few training iterations as a sequence of allocations: a step's trace with weights, inputs and optimizer around it.

Pure; built by `memory` for one process and replayed by `allocator`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from gpuplan.planning.memory.allocator import MIB, Step, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpuplan_job.step_trace import StepTrace

Optimizer = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "lamb", "own"]
Loop = Literal[
    "lightning",
    "plain",
    "plain, gradients set to zero before backward",
    "plain, gradients set to zero last",
    "plain, gradients zeroed in place",
]
"""Where gradients end. Lightning drops them after the forward pass, a plain loop in its first line, unless it says
otherwise; zeroed in place (`set_to_none=False`, the default before torch 2.0) they never end."""

ITERATIONS = 4
"""Without a bound nothing new is reserved after the third: the first has no optimizer state, the second finds its
blocks in the way. Within a bound the fourth may still run out of memory (VGG-16 in benchmarks/memory_accuracy.py)."""
CUBLAS_WORKSPACE = 4096 * 2 * 1024 + 16 * 8 * 1024
"""Bytes of `:4096:2:16:8`, torch's default, which the caching allocator makes for each handle at its first product and
keeps: one for the forward pass, one for autograd's thread (CUDABlas.cpp, CublasHandlePool.cpp)."""
HOPPER_CUBLAS_WORKSPACE = 32 * MIB
"""The same where the compute capability is 9.0."""
_BUCKET = 25 * MIB
_FIRST_BUCKET = MIB
"""Of DistributedDataParallel: gradients are reduced in buckets of 25 MiB, the first of 1 MiB."""


class OptimizerMemory(NamedTuple):
    """Copies of the trainable weights that an optimizer's multi-tensor implementation holds."""

    state: int
    """Kept from step to step, made in the first one."""
    state_from_start: bool
    """Made when the optimizer is constructed instead."""
    temporaries: int
    """Alive together at the most during a step."""


def optimizer_memory(optimizer: Optimizer, momentum: float, weight_decay: float) -> OptimizerMemory:
    """Return what `torch.optim` holds in its foreach implementation, the default on CUDA (torch 2.0 to 2.14).

    The square root of the second moment is one list of temporaries (Adam, AdamW, RMSprop, Adagrad). Weight decay that
    is added to the gradients makes another; AdamW's scales the weights in place. Adagrad also scales the gradients out
    of place unless weight decay has copied them already. LAMB's updates are one list (pytorch-optimizer 4.1). What
    a user's own optimizer holds is taken to be AdamW's.
    """
    decayed = int(weight_decay > 0)
    if optimizer == "sgd":
        return OptimizerMemory(int(momentum > 0), state_from_start=False, temporaries=decayed)
    if optimizer in ("adamw", "lamb", "own"):
        return OptimizerMemory(2, state_from_start=False, temporaries=1)
    if optimizer == "adam":
        return OptimizerMemory(2, state_from_start=False, temporaries=1 + decayed)
    if optimizer == "rmsprop":
        return OptimizerMemory(1 + int(momentum > 0), state_from_start=False, temporaries=1 + decayed)
    return OptimizerMemory(1, state_from_start=True, temporaries=2)


@dataclass
class Program:
    """The sequence, and of each numbered allocation what it is and whose."""

    steps: list[Step] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    modules: list[int] = field(default_factory=list)

    def make(self, size: int, kind: str, module: int = 0) -> int:
        """Allocate and return the number to free it by."""
        number = len(self.kinds)
        self.kinds.append(kind)
        self.modules.append(module)
        self.steps.append((number, max(1, size)))
        return number

    def free(self, numbers: Iterable[int]) -> None:
        """Free allocations, in this order."""
        self.steps += [(number, 0) for number in numbers]


@dataclass(frozen=True)
class Around:
    """What a step's memory depends on beside the trace."""

    batch: int
    optimizer: Optimizer
    momentum: float
    weight_decay: float
    loop: Loop
    buckets: bool
    """Whether DistributedDataParallel keeps a second copy of the gradients."""
    cublas_workspace: int = CUBLAS_WORKSPACE
    """Bytes of each; 0 where CUBLAS_WORKSPACE_CONFIG=:0:0 takes them from cuBLAS."""
    average: bool = False
    """Whether a moving average of the weights is kept."""


KINDS = ("activations", "half-precision weights", "gradients", "temporaries")
"""Of a trace's allocations, by position as in `gpuplan_job.step_trace.KINDS`; the names people read."""


def assemble(trace: StepTrace, around: Around, iterations: int = ITERATIONS) -> Program:
    """Return the sequence of `iterations` training iterations, the construction of model and optimizer before them."""
    return _Assembly(trace, around).run(iterations)


class _Assembly:
    def __init__(self, trace: StepTrace, around: Around) -> None:
        self.trace = trace
        self.around = around
        self.program = Program()
        columns = trace.allocations
        self.sizes = [
            round(fixed + per_sample * around.batch)
            for fixed, per_sample in zip(columns.fixed, columns.per_sample, strict=True)
        ]
        self.kinds = [KINDS[kind] for kind in columns.kind]
        self.optimizer = optimizer_memory(around.optimizer, around.momentum, around.weight_decay)
        self.state: list[int] = []
        self.gradients: list[int] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.workspaces = 0 if around.cublas_workspace else 2
        self.live: dict[int, int] = {}
        """Of the step's allocations those alive, with their numbers in the program."""

    def run(self, iterations: int) -> Program:
        trace, program = self.trace, self.program
        for size, module in zip(trace.trainable, trace.trainable_module, strict=True):
            program.make(size, "parameters", module)
        for size in trace.frozen:
            program.make(size, "parameters")
        for size in trace.buffers:
            program.make(size, "buffers")
        if self.around.buckets:
            for size in bucket_sizes(trace.trainable):
                program.make(size, "DDP buckets")
        if self.around.average:
            for size, module in zip(trace.trainable, trace.trainable_module, strict=True):
                program.make(size, "averaged weights", module)
        if self.optimizer.state_from_start:
            self._make_state()
        for _ in range(iterations):
            self._iteration()
        return program

    def _iteration(self) -> None:
        loop = self.around.loop
        if loop == "plain":
            self._zero_gradients()
        self._load()
        self._make_workspace(1)
        self._follow(self.trace.forward)
        self.program.free(self.outputs)
        self.outputs = []
        if loop in {"lightning", "plain, gradients set to zero before backward"}:
            self._zero_gradients()
        self._make_workspace(2)
        self._follow(self.trace.backward)
        self._end_step()
        self._optimize()
        if loop == "plain, gradients set to zero last":
            self._zero_gradients()

    def _load(self) -> None:
        """Bring the next batch to the GPU; the last one ended when the loop bound its name to the next on the CPU."""
        self.program.free(self.inputs)
        self.inputs = [self.program.make(round(size * self.around.batch), "inputs") for size in self.trace.inputs]

    def _make_workspace(self, wanted: int) -> None:
        """Give cuBLAS its workspaces up to `wanted`."""
        while self.workspaces < wanted:
            self.program.make(self.around.cublas_workspace, "cuBLAS workspaces")
            self.workspaces += 1

    def _zero_gradients(self) -> None:
        self.program.free(self.gradients)
        self.gradients = []

    def _follow(self, steps: Sequence[int]) -> None:
        held = set() if self.around.loop == "lightning" else set(self.trace.outputs)
        columns = self.trace.allocations
        kept = self.around.loop == "plain, gradients zeroed in place" and bool(self.gradients)
        added: list[int] = []
        for step in steps:
            index = abs(step) - 1
            if step > 0:
                self.program.free(added)
                self.live[index] = self.program.make(self.sizes[index], self.kinds[index], columns.module[index])
                # Where the last gradient is still there, a new one is added to it and ends.
                added = [self.live.pop(index)] if kept and self.kinds[index] == "gradients" else []
            elif index not in held:
                self.program.free([self.live.pop(index)])
        self.program.free(added)

    def _end_step(self) -> None:
        """Sort what the step has left: gradients, outputs a plain loop holds, and caches of the model, made anew."""
        left, self.live = self.live, {}
        for index, number in left.items():
            if self.kinds[index] == "gradients":
                self.gradients.append(number)
            elif index in self.trace.outputs:
                self.outputs.append(number)
            else:
                self.program.free([number])

    def _optimize(self) -> None:
        if not self.state and not self.optimizer.state_from_start:
            self._make_state()
        temporaries = [
            self.program.make(size, "optimizer temporaries", module)
            for _ in range(self.optimizer.temporaries)
            for size, module in zip(self.trace.trainable, self.trace.trainable_module, strict=True)
        ]
        self.program.free(temporaries)

    def _make_state(self) -> None:
        self.state = [
            self.program.make(size, "optimizer state", module)
            for size, module in zip(self.trace.trainable, self.trace.trainable_module, strict=True)
            for _ in range(self.optimizer.state)
        ]


def bucket_sizes(gradients: Sequence[int]) -> list[int]:
    """Return the bytes of each bucket: gradients from the last layer to the first, until one passes its bound."""
    sizes: list[int] = []
    bound, size = _FIRST_BUCKET, 0
    for gradient in reversed(gradients):
        size += gradient
        if size >= bound:
            sizes.append(size)
            bound, size = _BUCKET, 0
    return [*sizes, size] if size else sizes


def at_peak(program: Program) -> dict[tuple[str, int], int]:
    """Return the bytes in use at the moment of most bytes in use, by kind and module; sizes as the allocator rounds."""
    sizes = [0] * len(program.kinds)
    used = most = last = 0
    for position, (number, size) in enumerate(program.steps):
        if size:
            sizes[number] = rounded(size)
            used += sizes[number]
            if used > most:
                most, last = used, position
        else:
            used -= sizes[number]
    found: dict[int, int] = {}
    for number, size in program.steps[: last + 1]:
        if size:
            found[number] = sizes[number]
        else:
            del found[number]
    totals: dict[tuple[str, int], int] = {}
    for number, size in found.items():
        key = program.kinds[number], program.modules[number]
        totals[key] = totals.get(key, 0) + size
    return totals
