"""Lets torch take the paths of a CUDA GPU on a machine without one: autocast, fused attention, recomputation.

Used by `step` around a whole trace. Every function of torch that is replaced here is put back at the end.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch.cuda.amp.common
import torch.nn.functional
import torch.nn.init
from torch import Tensor, nn

from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIMENSIONS = 4
"""Of the queries that fused attention kernels take: batch, heads, tokens, channels."""
_FLASH_ALIGNMENT = 8
"""Channels a head must be a multiple of for flash attention without padding."""


def check(internals: object = torch._C, *, has_gpu: bool | None = None) -> None:  # noqa: SLF001 - what tells it
    """Return if this torch takes CUDA's paths for fake tensors; an older one without a GPU ends the whole process.

    `has_gpu` is for tests; None asks torch.

    Raises:
        JobError: it does not.
    """
    if hasattr(internals, "_ensureCUDADeviceGuardSet"):
        return
    if not (torch.cuda.is_available() if has_gpu is None else has_gpu):
        raise JobError(
            "device",
            f"torch {torch.__version__} cannot trace a step without a GPU",
            "pip install --upgrade torch torchvision    in the environment that plans; jobs may keep theirs",
        )


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:  # noqa: ANN401 - a module or a class of torch
    """Hold an attribute at another value for the length of a block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def pretend_cuda() -> Iterator[None]:
    """Let autocast("cuda") work and attention take a fused kernel, as they do where there is a GPU.

    Without a GPU autocast("cuda") switches itself off with a mere warning, and every size would be fp32's. Fake CUDA
    tensors would take the unfused attention, which keeps a matrix of tokens x tokens that no GPU of today keeps.
    """
    functional: Any = torch.nn.functional
    with contextlib.ExitStack() as stack:
        common: Any = torch.cuda.amp.common
        stack.enter_context(replaced(common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(replaced(torch.cuda, "is_bf16_supported", lambda *_args, **_options: True))
        plain = functional.scaled_dot_product_attention
        stack.enter_context(replaced(functional, "scaled_dot_product_attention", _attention(plain)))
        yield


@contextlib.contextmanager
def without_initialization() -> Iterator[None]:
    """Let modules be constructed without filling their weights: values do not matter to a trace, time does."""
    with contextlib.ExitStack() as stack:
        for name in dir(torch.nn.init):
            if name.endswith("_") and not name.startswith("_"):
                stack.enter_context(replaced(torch.nn.init, name, _leave))
        yield


def onto_fake_gpu(network: nn.Module) -> nn.Module:
    """Replace every parameter and buffer by a CUDA tensor of the same layout; called under a FakeTensorMode.

    Module.to() would copy data that does not exist, and Module._apply() would part weights that are tied.
    """
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
            parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if parameter else empty
        return made[id(tensor)]

    for part in network.modules():
        for tensors in (part._parameters, part._buffers):  # noqa: SLF001 - the one place where they can be replaced
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)  # type: ignore[assignment] # a parameter where there was one
    return network


def _leave(tensor: Tensor, *_arguments: object, **_options: object) -> Tensor:
    return tensor


def _attention(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return scaled_dot_product_attention with the kernel a GPU picks: flash in half precision, else mem-efficient."""

    def attention(  # noqa: PLR0913, PLR0917 - torch's own signature
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # noqa: FBT001, FBT002 - torch's own signature
        scale: float | None = None,
        **options: Any,  # noqa: ANN401 - `enable_gqa`, from torch 2.5 on
    ) -> Tensor:
        if query.device.type != "cuda" or query.dim() != _DIMENSIONS or key.shape[1] != query.shape[1]:
            return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
        if torch.is_autocast_enabled("cuda"):
            half = torch.get_autocast_dtype("cuda")
            query, key, value = (part.to(half) for part in (query, key, value))
        if attn_mask is None and query.dtype != torch.float32 and query.shape[-1] % _FLASH_ALIGNMENT == 0:
            flash: Any = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001 - an operator's name
            found: Tensor = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]  # noqa: FBT003 - positional in torch
            return found
        bias = None if attn_mask is None else _bias(attn_mask, query, key)
        efficient: Any = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001 - as above
        kept: Tensor = efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]  # noqa: FBT003 - as above
        return kept

    return attention


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return an attention mask as the additive bias that the kernel takes."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    return mask.to(query.dtype).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
