"""Keeps what a range test must not change: weights, buffers, optimizer, modes, attributes, random numbers.

Called by `finder.search` around its sweeps. It writes the old values back into the very tensors that hold them, so that
optimizers, tied weights, views and DDP's buckets see the same objects as before. The copies lie in the host's memory: a
range test needs no more of the GPU's than a training.
"""

from __future__ import annotations

import contextlib
import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_IN_MODULE = {"_parameters", "_buffers", "_modules"}
_TRAINER = {"_trainer", "_fabric"}


@contextlib.contextmanager
def preserved_randomness(*, cuda: bool) -> Iterator[None]:
    """Give Python, NumPy (where loaded) and torch their random state back after the block.

    On every device that is in use; `cuda` says that the GPUs will be.
    """
    numpy = sys.modules.get("numpy")
    before = random.getstate(), torch.get_rng_state(), numpy.random.get_state() if numpy else None
    on_gpus = torch.cuda.get_rng_state_all() if cuda or torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call] # torch does not type it
    on_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(before[0])
        torch.set_rng_state(before[1])
        if numpy:
            numpy.random.set_state(before[2])
        if on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)
        if on_mps is not None:
            torch.mps.set_rng_state(on_mps)


class Snapshot:
    """The state of a module, and of the optimizer if one is added, as they came.

    It is what each sweep starts from and what is left behind.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._modules = [(part, _Part.of(part)) for part in module.modules()]
        self._parameters: list[tuple[Tensor, _Held, bool, Tensor | None]] = []
        self._keep(module.parameters())
        self._optimizer: torch.optim.Optimizer | None = None
        self._groups: list[tuple[dict[str, Any], _Kept]] = []
        self._state: dict[Tensor, _Kept] = {}
        self._attributes: dict[str, Any] = {}

    def add(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep an optimizer too, with those of its parameters that are not the module's."""
        known = {id(parameter) for parameter, *_ in self._parameters}
        self._keep(p for group in optimizer.param_groups for p in group["params"] if id(p) not in known)
        self._optimizer = optimizer
        self._groups = [(group, _copied(dict(group))) for group in optimizer.param_groups]
        self._state = {parameter: _copied(dict(state)) for parameter, state in optimizer.state.items()}
        # A schedule counts the optimizer's steps in attributes.
        self._attributes = {name: value for name, value in vars(optimizer).items() if isinstance(value, _PLAIN)}

    def _keep(self, parameters: Iterable[Tensor]) -> None:
        self._parameters += [(p, _Held.of(p), p.requires_grad, p.grad) for p in parameters]

    def rewind(self) -> None:
        """Put everything back, gradients left out: these are dropped."""
        for part, kept in self._modules:
            kept.restore(part)
        for parameter, held, requires_grad, _ in self._parameters:
            held.restore(parameter)
            parameter.requires_grad_(requires_grad)
            parameter.grad = None
        if self._optimizer is None:
            return
        for group, values in self._groups:
            restored = values.restored()
            group.clear()
            group.update(restored)
        self._optimizer.state.clear()
        for parameter, values in self._state.items():
            self._optimizer.state[parameter] = values.restored()
        own = vars(self._optimizer)
        for name in [name for name, value in own.items() if isinstance(value, _PLAIN) and name not in self._attributes]:
            del own[name]
        own.update(self._attributes)

    def restore(self) -> None:
        """Put everything back, with the gradients that were there."""
        self.rewind()
        for parameter, _, _, gradient in self._parameters:
            parameter.grad = gradient


@dataclass(frozen=True)
class _Held:
    """A tensor's values on the host; where it is there already, in a copy."""

    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Held:
        return cls(tensor.detach().to("cpu", copy=True))

    def restore(self, tensor: Tensor) -> None:
        with torch.no_grad():
            tensor.detach().copy_(self.values)


@dataclass(frozen=True)
class _Kept:
    """A value as it was: the object itself, and what it held where that can change."""

    value: Any
    held: Any = None

    def restored(self) -> Any:  # noqa: ANN401 - any attribute of any module
        """Return the object, holding what it held."""
        value, held = self.value, self.held
        if held is None:
            return value
        if isinstance(held, _Held):
            held.restore(value)
        elif isinstance(value, torch.Generator):
            value.set_state(held)
        elif isinstance(value, dict):
            contents = {key: kept.restored() for key, kept in held.items()}
            value.clear()
            value.update(contents)
        else:
            contents_list = [kept.restored() for kept in held]
            value.clear()
            (value.update if isinstance(value, set) else value.extend)(contents_list)
        return value


def _copied(value: Any) -> _Kept:  # noqa: ANN401 - any attribute of any module
    """Return what restores a value: tensors, generators and plain containers of them; of anything else the reference.

    A parameter is left alone, because it is kept by itself; so is a container that holds anything unknown, for its
    contents are somebody else's.
    """
    if isinstance(value, (torch.nn.Parameter, *_PLAIN)):
        return _Kept(value)
    if isinstance(value, torch.Tensor):
        return _Kept(value, _Held.of(value))
    if isinstance(value, torch.Generator):
        return _Kept(value, value.get_state())
    if type(value) is dict:
        return _Kept(value, {key: _copied(item) for key, item in value.items()})
    if isinstance(value, list):
        return _Kept(value, [_copied(item) for item in value])
    if type(value) is set and all(isinstance(item, _PLAIN) for item in value):
        return _Kept(value, [_Kept(item) for item in value])
    return _Kept(value)


@dataclass(frozen=True)
class _Part:
    """One module without its children: mode, buffers, and attributes such as a metric's sums or a list of losses."""

    attributes: dict[str, _Kept]
    parameters: dict[str, Any]
    buffers: dict[str, _Kept]

    @classmethod
    def of(cls, module: nn.Module) -> _Part:
        own = {name: value for name, value in vars(module).items() if name not in _IN_MODULE}
        return cls(
            {name: _Kept(value) if name in _TRAINER else _copied(value) for name, value in own.items()},
            dict(module._parameters),  # noqa: SLF001 - as registered, None and all
            {name: _copied(buffer) for name, buffer in module._buffers.items()},  # noqa: SLF001 - as above
        )

    def restore(self, module: nn.Module) -> None:
        own = vars(module)
        for name in [name for name in own if name not in _IN_MODULE and name not in self.attributes]:
            del own[name]
        for name, kept in self.attributes.items():
            own[name] = kept.restored()
        module._parameters.clear()  # noqa: SLF001 - as above
        module._parameters.update(self.parameters)  # noqa: SLF001 - as above
        module._buffers.clear()  # noqa: SLF001 - as above
        module._buffers.update({name: kept.restored() for name, kept in self.buffers.items()})  # noqa: SLF001 - as above


@contextlib.contextmanager
def preserved_loader(loader: object) -> Iterator[None]:
    """Give a loader its generators, its samplers' epochs and its worker processes back after the block."""
    samplers: list[Any] = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    samplers.append(getattr(samplers[-1], "sampler", None))
    kept = []
    for sampler in samplers:
        generator = getattr(sampler, "generator", None)
        if isinstance(generator, torch.Generator):
            kept.append((generator, generator.get_state()))
    epochs = [(sampler, sampler.epoch) for sampler in samplers if isinstance(getattr(sampler, "epoch", None), int)]
    # With persistent workers a DataLoader keeps its iterator: the training's must not be ours.
    held = vars(loader) if hasattr(loader, "_iterator") else {}
    iterator = held.get("_iterator")
    if held:
        held["_iterator"] = None
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state(state)
        for sampler, epoch in epochs:
            sampler.epoch = epoch
        if held:
            held["_iterator"] = iterator
