"""Writes down what a step does, operator by operator: storages made and freed, kernels with their flops and bytes.

A dispatch mode over fake tensors, entered by `step`. It changes no result and judges nothing.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.utils.hooks import RemovableHandle

ACTIVATION, HALF_WEIGHT, GRADIENT, TEMPORARY = range(4)
_GROUPED = {torch.ops.aten.convolution.default: 8, torch.ops.aten.convolution_backward.default: 9}
"""Position of `groups` among a convolution's arguments."""


@dataclass
class Allocation:
    """A storage that the step made."""

    nbytes: int
    module: int
    operator: str
    forward: bool
    half_weight: bool
    kind: int = TEMPORARY
    alive: bool = True


@dataclass(frozen=True)
class Kernel:
    """What one operator computes and moves."""

    name: str
    flops: int
    nbytes: int
    forward: bool


@dataclass
class Recording:
    """A step at one batch."""

    allocations: list[Allocation] = field(default_factory=list)
    forward: list[int] = field(default_factory=list)
    backward: list[int] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    guesses: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Records every operator while it is entered; `begin_backward` tells it when the forward pass is over."""

    def __init__(self, network: nn.Module, known: Iterable[Tensor]) -> None:
        """Take the storages of `known` tensors as there before the step: weights, buffers and inputs."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.recording = Recording()
        self.modules = list(dict(network.named_modules(remove_duplicate=True)))
        self._index = {id(part): number for number, part in enumerate(network.modules())}
        self._stack: list[int] = [0]
        self._program = self.recording.forward
        self._seen: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._parameters = {id(p.untyped_storage()) for p in network.parameters()}
        self._known = [tensor.untyped_storage() for tensor in known]
        """Held, so that no storage made later gets the identity of one of them."""
        self._known_ids = {id(storage) for storage in self._known}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        """Start to record, and to follow which module runs."""
        self._handles = [
            hooks.register_module_forward_pre_hook(self._enter_module),
            hooks.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for handle in self._handles:
            handle.remove()

    def begin_backward(self) -> None:
        """Write into the backward program from here on; what is alive is kept for the backward pass."""
        for allocation in self.recording.allocations:
            if allocation.alive:
                allocation.kind = HALF_WEIGHT if allocation.half_weight else ACTIVATION
        self._program = self.recording.backward

    def finish(self, gradients: Iterable[Tensor]) -> Recording:
        """Return what was recorded until now; whatever is freed later is not in it.

        What is alive and no gradient is a cache that the network has made for itself: it counts as kept.
        """
        found = self.recording
        for tensor in gradients:
            number = self.index(tensor)
            if number is not None:
                found.allocations[number].kind = GRADIENT
        return replace(found, forward=_settled(found.forward), backward=_settled(found.backward))

    def index(self, tensor: Tensor) -> int | None:
        """Return the number of the allocation that a tensor lies in, None if it is not of this step."""
        storage = tensor.untyped_storage()
        entry = self._seen.get(id(storage))
        return entry[1] if entry is not None and entry[0]() is storage else None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - torch's own untyped hook
        """Run an operator and write it down."""
        del types
        options = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:  # noqa: SLF001 - how torch spells .item()
            self.recording.guesses += 1
            return _guess(args[0])
        result = func(*args, **options)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.device.type == "cuda"]
        given = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._track(tensor, func, given)
        if made and _computes(func):
            self._count(func, args, options, result, [*given, *made])
        return result

    def _track(self, tensor: Tensor, func: Any, given: list[Tensor]) -> None:  # noqa: ANN401 - an operator of torch
        storage = tensor.untyped_storage()
        if id(storage) in self._known_ids or self.index(tensor) is not None:
            return
        size = storage.nbytes()
        if size == 0:
            return
        number = len(self.recording.allocations)
        cast = func is torch.ops.aten._to_copy.default and id(given[0].untyped_storage()) in self._parameters  # noqa: SLF001 - how torch spells .to()
        in_forward = self._program is self.recording.forward
        self.recording.allocations.append(Allocation(size, self._stack[-1], str(func), in_forward, cast))
        self._program.append(number + 1)
        key = id(storage)

        def freed(reference: weakref.ref[Any]) -> None:
            self._program.append(-(number + 1))
            self.recording.allocations[number].alive = False
            if self._seen.get(key, (None,))[0] is reference:
                del self._seen[key]

        self._seen[key] = (weakref.ref(storage, freed), number)

    def _count(self, func: Any, args: Any, options: Any, result: Any, tensors: list[Tensor]) -> None:  # noqa: ANN401, PLR0913, PLR0917 - an operator of torch and its arguments
        name = str(func).removeprefix("aten.").rsplit(".", 1)[0]
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - the key of torch's own registry
        flops = int(formula(*args, **options, out_val=result)) if formula else 0
        position = _GROUPED.get(func)
        if position is not None and args[position] > 1:
            weight = args[1] if position == _GROUPED[torch.ops.aten.convolution.default] else args[2]
            name += "/depthwise" if weight.shape[1] == 1 else "/grouped"
        moved = sum(_extent(tensor) for tensor in tensors)
        forward = self._program is self.recording.forward
        self.recording.kernels.append(Kernel(name, flops, moved, forward))

    def _enter_module(self, module: nn.Module, inputs: object) -> None:
        del inputs
        self._stack.append(self._index.get(id(module), self._stack[-1]))

    def _leave_module(self, module: nn.Module, inputs: object, output: object) -> None:
        del module, inputs, output
        if len(self._stack) > 1:
            self._stack.pop()


def _settled(program: list[int]) -> list[int]:
    """Return a program with the order of frees that follow one another fixed, which the allocator does not see.

    Autocast empties its cache of half-precision weights in the order of their addresses: another one each time.
    """
    groups = itertools.groupby(program, key=lambda step: step < 0)
    return [step for freed, steps in groups for step in (sorted(steps, reverse=True) if freed else steps)]


def _extent(tensor: Tensor) -> int:
    """Return the bytes a kernel touches of a tensor; an expanded one is read from less memory than it seems to have."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _computes(func: Any) -> bool:  # noqa: ANN401 - an operator of torch
    """Tell whether an operator starts a kernel; a view does not."""
    if func.namespace != "aten" or func._overloadpacket in _NO_KERNEL:  # noqa: SLF001 - its name without the overload
        return False
    returned = func._schema.returns  # noqa: SLF001 - the only place that tells a view from a kernel
    alias = returned[0].alias_info if returned else None
    return alias is None or bool(alias.is_write)


_NO_KERNEL = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
    torch.ops.aten.detach,
    torch.ops.aten.lift_fresh,
}


def _guess(tensor: Tensor) -> bool | float | int:
    """Return what a tensor asked for its value may hold: masks are all ones, and no random draw leaves a layer out."""
    if tensor.dtype == torch.bool:
        # What is drawn on the CPU decides on layers to skip (transformers' LayerDrop: torch.rand([]) < 0).
        return tensor.device.type != "cpu"
    return 1.0 if tensor.is_floating_point() else 1
