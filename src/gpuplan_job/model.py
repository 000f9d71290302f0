"""Builds a torchvision classification network by name, fitted to the data's channels, classes and image size.

Called by `lr_find` and `train`. It must draw weights from torch's global seed only, and never download any.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import warnings
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torchvision import models

from gpuplan_job.failures import JobError
from gpuplan_job.model_sides import SMALL_SIDE

if TYPE_CHECKING:
    from gpuplan_job.contract import DataDescription

_SIDES = (8, 14, 16, 28, 32, 48, 56, 64, 75, 80, 96, 112, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512)
"""Sides that are tried when a network does not take the one asked for."""


def build(name: str, description: DataDescription, image_size: int | None) -> nn.Module:
    """Return the network `name` with fresh weights, from image batches [B, C, H, W] to logits [B, classes].

    `image_size` is the side of the square images, in pixels; None means the data's own height and width. GoogLeNet and
    Inception come without their auxiliary heads, so that every network has one output.

    Raises:
        JobError: torchvision has no such network, or the network does not take images of this size.
    """
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
        raise JobError(
            "usage", f"torchvision has no classification model {name!r}", f"use --model {' or '.join(close)}"
        )
    sides = (image_size, image_size) if image_size else (description.height, description.width)
    problem = size_problem(name, description, sides)
    if problem is not None:
        shown = "x".join(map(str, sides))
        raise JobError("usage", f"{name} does not take {shown} images: {problem}", _size_fix(name, description, sides))
    return _construct(name, description, sides)


def _construct(name: str, description: DataDescription, sides: tuple[int, int]) -> nn.Module:
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        options["image_size"] = sides[0]
    elif name.startswith("maxvit_"):
        options["input_size"] = sides
    elif name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    network = cast("nn.Module", models.get_model(name, weights=None, num_classes=description.classes, **options))
    path, stem = next((path, part) for path, part in network.named_modules() if isinstance(part, nn.Conv2d))
    kernel, stride = stem.kernel_size[0], stem.stride[0]
    # A stem whose stride is its kernel cuts patches; overlapping them would make another network.
    if min(sides) < SMALL_SIDE and stem.stride != stem.kernel_size:
        stride = 1
        if isinstance(network, models.ResNet):
            kernel = 3
            network.set_submodule("maxpool", nn.Identity())
    if (description.channels, kernel, stride) != (stem.in_channels, stem.kernel_size[0], stem.stride[0]):
        network.set_submodule(path, _stem(stem, description.channels, kernel, stride))
    return network


def _stem(old: nn.Conv2d, channels: int, kernel: int, stride: int) -> nn.Conv2d:
    """Return `old` for other channels, kernel or stride, its weights drawn so that the output's variance stays."""
    padding = old.padding[0] if kernel == old.kernel_size[0] else kernel // 2
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=old.bias is not None)
    width = float(old.weight.detach().std()) if old.weight.device.type != "meta" else 0.0
    fan_in, old_fan_in = channels * kernel**2, old.in_channels * old.kernel_size[0] ** 2
    nn.init.normal_(new.weight, std=width * math.sqrt(old_fan_in / fan_in))
    if new.bias is not None and old.bias is not None:
        with torch.no_grad():
            new.bias.copy_(old.bias)
    return new


def size_problem(name: str, description: DataDescription, sides: tuple[int, int]) -> str | None:
    """Return why a network fails on two images of a size, None if it works: shapes only, on the meta device."""
    try:
        # RegNet computes its widths with tensors, so it cannot be constructed without values; its draws are taken back.
        where = "cpu" if name.startswith("regnet_") else "meta"
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings(action="ignore"):
            with torch.device(where):
                network = _construct(name, description, sides).to("meta")
            network.train()(torch.empty(2, description.channels, *sides, device="meta"))
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def _size_fix(name: str, description: DataDescription, sides: tuple[int, int]) -> str:
    """Return the command-line fix: the smallest known side above the present one that works, else the largest below."""
    low = min(sides)
    candidates = [side for side in _SIDES if side > low] + [side for side in reversed(_SIDES) if side <= low]
    with contextlib.suppress(StopIteration):
        side = next(side for side in candidates if size_problem(name, description, (side, side)) is None)
        return f"use --image-size {side}, the next side that works, or another --model"
    return "use another --model"
