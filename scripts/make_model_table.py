"""Measure every torchvision classification model and print the table that `gpuplan.planning.models` reads.

Run by maintainers on a new torchvision, on Linux with a CUDA build of torch (no GPU needed): tensors are fake CUDA
tensors, so that nothing is computed, yet autocast and attention kernels are chosen as on a GPU.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.cuda.amp.common
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gpuplan_job import model as payload
from gpuplan_job.contract import DataDescription

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = (
    "model",
    "image_size",
    "parameters",
    "parameters_per_class",
    "buffers",
    "forward_gflop",
    "saved_mib_fp32",
    "saved_mib_mixed",
    "operations",
)
SIDES = (8, 32, 64, 86, 96, 224)
"""8 and 32 px run with the payload's small stem. From 64 px on convolutions grow with the area where the side is a
multiple of 32, so few sides do; 86 px is the side of the published memory measurements (benchmarks/data)."""
ATTENTION = ("vit_", "swin_", "maxvit_")
ATTENTION_SIDES = (128, 384)
"""More sides for what does not grow with the area alone."""
CLASSES = 1000
# So many that the weights, which are kept whatever the batch, do not show: fake tensors take no memory.
BATCH = 2**16
MIB = 2**20
GIGA = 1e9


class OperationCount(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """Counts operators that compute something: views and detaches start no kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - torch's own untyped hook
        """Count and go on."""
        del types
        returned = func._schema.returns  # noqa: SLF001 - the only place that tells a view from a kernel
        alias = returned[0].alias_info if returned else None
        self.operations += alias is None or alias.is_write
        return func(*args, **(kwargs or {}))


def attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **options: object) -> Tensor:
    """Stand in for scaled_dot_product_attention with the kernel a GPU takes; fake tensors would take the slow one."""
    if options.get("attn_mask") is not None:
        # No torchvision classifier masks its attention; one that did must not be measured with another kernel unseen.
        raise ValueError("this script stands in for attention without a mask only")
    if query.dtype == torch.float32:
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]  # type: ignore[no-any-return] # noqa: FBT003, SLF001 - an operator's positional signature
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]  # type: ignore[no-any-return] # noqa: SLF001 - as above


def forward(network: nn.Module, side: int, *, mixed: bool) -> tuple[float, float, int]:
    """Return MiB kept for the backward pass and GFLOP, per sample, and the operators of one fake forward pass."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Holding the storage keeps its address unique, so that each counts once.
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # noqa: SLF001 - a storage's identity
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(BATCH, 3, side, side, device="cuda")
        labels = torch.zeros(BATCH, dtype=torch.long, device="cuda")
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cuda", dtype=torch.float16, enabled=mixed),
            FlopCounterMode(display=False) as flops,
            OperationCount() as count,
        ):
            functional.cross_entropy(network(images), labels)
    saved = sum(storage.nbytes() for storage in kept.values())
    return saved / MIB / BATCH, flops.get_total_flops() / GIGA / BATCH, count.operations


def on_fake_gpu(network: nn.Module) -> nn.Module:
    """Replace every parameter and buffer by a fake CUDA tensor of the same shape."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        network._apply(  # type: ignore[no-untyped-call]  # noqa: SLF001 - Module.to() would copy data that does not exist
            lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad)
        )
    return network.train()


def measure(network: nn.Module, side: int) -> tuple[float, float, float, int]:
    """Return forward GFLOP and MiB kept in fp32 and in mixed precision, per sample, and operators."""
    network = on_fake_gpu(network)
    fp32, gflop, operations = forward(network, side, mixed=False)
    return gflop, fp32, forward(network, side, mixed=True)[0], operations


def native_side(name: str) -> int:
    """Return the side in pixels that torchvision's default weights were evaluated at."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    return int(weights.transforms().crop_size[0])


def build(name: str, side: int, classes: int) -> nn.Module:
    """Return the network that the payload would train, without its weights' data."""
    data = DataDescription(
        train_samples=1, val_samples=1, channels=3, height=side, width=side, classes=classes, bytes_per_sample=0
    )
    # RegNet computes its widths with tensors, and meta tensors hold no numbers.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return payload.build(name, data, side)


def parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def rows(name: str, report: Callable[[str], None]) -> list[list[str]]:
    """Return the table's rows of one model: each side that the payload can build it at."""
    found = []
    more = ATTENTION_SIDES if name.startswith(ATTENTION) else ()
    for side in sorted({*SIDES, *more, native_side(name)}):
        try:
            network = build(name, side, CLASSES)
            per_class = parameters(network) - parameters(build(name, side, CLASSES - 1))
            gflop, fp32, mixed, operations = measure(network, side)
        except Exception as error:  # noqa: BLE001 - a side a model cannot take is a row less, and is reported
            report(f"{name} at {side} px: left out: {str(error).splitlines()[0]}")
            continue
        sizes = [parameters(network), per_class, sum(b.numel() for b in network.buffers())]
        figures = [f"{figure:.4g}" for figure in (gflop, fp32, mixed)]
        found.append([name, str(side), *map(str, sizes), *figures, str(operations)])
    return found


def main() -> None:
    """Write the table; progress and what was left out go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--date", required=True, help="date of the measurement, YYYY-MM-DD")
    parser.add_argument("--models", nargs="*", default=torchvision.models.list_models(module=torchvision.models))
    arguments = parser.parse_args()
    # Without a GPU autocast("cuda") would switch itself off, and every figure would be fp32's.
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    functional.scaled_dot_product_attention = attention
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # what fails is reported by rows()
    text = io.StringIO()
    text.write(f"# torchvision {torchvision.__version__}, torch {torch.__version__}, measured {arguments.date}")
    text.write(" by scripts/make_model_table.py; saved_mib: a sample's, for the backward pass\n")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in arguments.models:
        table.writerows(rows(name, lambda line: print(line, file=sys.stderr)))
        print(name, file=sys.stderr)
    arguments.output.write_text(text.getvalue())


if __name__ == "__main__":
    main()
