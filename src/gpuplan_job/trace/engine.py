"""Runs a backward pass over fake CUDA tensors, which torch's own engine cannot: it asks a driver that is not there.

Used by `step`. It follows the order, the accumulation and the lifetimes of torch's engine (engine.cpp,
accumulate_grad.h), because they decide what is alive at the peak. Hooks on tensors are not run.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import BackwardCFunction

from gpuplan_job.trace.fake_cuda import replaced

if TYPE_CHECKING:
    from torch import Tensor

Node = Any
"""A node of autograd's graph: torch gives it no public type with the members needed here."""

_LEAF = "AccumulateGrad"
_UNSHARED = 2
"""References to a tensor that nobody else holds: the caller's variable and getrefcount's own argument."""
_task_ids = itertools.count(1 << 20)


def backward(loss: list[Tensor]) -> None:
    """Run the backward pass of the scalar in `loss`, which is emptied, and add gradients to the leaves' `.grad`.

    The list is how the last reference is handed over: a node that is alive keeps its saved tensors alive.
    """
    # Non-reentrant checkpointing recomputes a block once for each task of the engine; outside one, for each tensor.
    task = next(_task_ids)
    root = [loss[0].grad_fn]  # a name for the node itself would keep the whole graph alive
    gradient = [torch.ones_like(loss[0])]
    loss.clear()
    with replaced(torch._C, "_current_graph_task_id", lambda: task), torch.no_grad():  # noqa: SLF001 - what checkpoint reads
        _run(root, gradient)


def _run(root: list[Node], gradient: list[Tensor]) -> None:
    waiting = _dependencies(root[0])
    ready: list[tuple[tuple[int, int], int, Node]] = []
    order = itertools.count()
    inbox: dict[Node, dict[int, Tensor]] = {root[0]: {0: gradient.pop()}}
    heapq.heappush(ready, (_priority(root[0]), next(order), root.pop()))
    while ready:
        node = heapq.heappop(ready)[-1]
        received = inbox.pop(node, {})
        if type(node).__name__ == _LEAF:
            _accumulate(node, received)
            continue
        edges = node.next_functions
        produced = _apply(node, received)
        del node, received  # with its last reference the node lets go of what it saved
        for index, (target, position) in enumerate(edges):
            value = produced[index] if index < len(produced) else None
            if index < len(produced):
                produced[index] = None
            if target is None:
                continue
            if value is not None:
                _deliver(inbox.setdefault(target, {}), position, _as_expected(value, target, position))
            value = None
            waiting[target] -= 1
            if waiting[target] == 0:
                del waiting[target]
                heapq.heappush(ready, (_priority(target), next(order), target))
        del edges, produced
        target = None


def _dependencies(root: Node) -> dict[Node, int]:
    """Return how many edges lead to each node from the root's graph."""
    count: dict[Node, int] = {}
    seen, stack = {root}, [root]
    while stack:
        for target, _ in stack.pop().next_functions:
            if target is None:
                continue
            count[target] = count.get(target, 0) + 1
            if target not in seen:
                seen.add(target)
                stack.append(target)
    return count


def _priority(node: Node) -> tuple[int, int]:
    """Return the engine's order: leaves first, then the node that was made last."""
    if type(node).__name__ == _LEAF:
        return 0, 0
    return 1, -node._sequence_nr()  # noqa: SLF001 - autograd's own order


def _apply(node: Node, received: dict[int, Tensor]) -> list[Tensor | None]:
    """Return the gradients that a node sends on, one for each of its edges."""
    gradients: list[Tensor | None] = [received.pop(i, None) for i in range(len(node._input_metadata))]  # noqa: SLF001 - no public name
    if all(gradient is None for gradient in gradients):
        return []
    call = node.apply if isinstance(node, BackwardCFunction) else node
    produced = call(*gradients)
    return list(produced) if isinstance(produced, tuple) else [produced]


def _as_expected(value: Tensor, target: Node, position: int) -> Tensor:
    """Return a gradient in the shape and type of what it is the gradient of (engine.cpp, validate_outputs)."""
    expected = target._input_metadata[position]  # noqa: SLF001 - no public name
    if tuple(value.shape) != tuple(expected.shape):
        value = value.sum_to_size(tuple(expected.shape))
    return value if value.dtype == expected.dtype else value.to(expected.dtype)


def _deliver(inbox: dict[int, Tensor], position: int, value: Tensor) -> None:
    """Add a gradient to those a node has received, in place where nobody else holds it (input_buffer.cpp)."""
    if position not in inbox:
        inbox[position] = value
        return
    present = inbox.pop(position)
    if sys.getrefcount(present) <= _UNSHARED and present.dtype == value.dtype and _dense(present):
        inbox[position] = present.add_(value)
    else:
        inbox[position] = present + value


def _dense(tensor: Tensor) -> bool:
    """Tell whether a tensor has its memory to itself and fills it, in whatever order its dimensions lie."""
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def _accumulate(node: Node, received: dict[int, Tensor]) -> None:
    """Give a leaf its gradient: as it came where it has the leaf's layout and memory of its own, else a copy."""
    gradient = received.pop(0, None)
    if gradient is None:
        return
    leaf = node.variable
    if leaf.grad is not None:
        leaf.grad.add_(gradient)
        return
    leaf.grad = gradient.detach() if _dense(gradient) and gradient.stride() == leaf.stride() else torch.empty_like(leaf)
