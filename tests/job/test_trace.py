"""A traced step against torch itself: what is kept, made and counted is what torch keeps, makes and counts."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from gpuplan_job import activation_checkpointing, model
from gpuplan_job.contract import DataDescription
from gpuplan_job.failures import JobError
from gpuplan_job.step_trace import KINDS, InputSpec, StepTrace, TraceRequest
from gpuplan_job.trace import fake_cuda
from gpuplan_job.trace.step import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = InputSpec("images", height=32, width=32, classes=10)
OWN = """
import pytorch_lightning as pl
import torch
from torch import nn
from helper_of_net import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(WIDTH, 10)
    def forward(self, images):
        return self.head(self.body(images))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(1000, 64)
        self.out = nn.Linear(64, 1000, bias=False)
        self.out.weight = self.words.weight
    def forward(self, tokens, labels=None):
        return self.out(self.words(tokens))

class Lit(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()
    def training_step(self, batch, index):
        images, labels = batch
        return {"loss": nn.functional.cross_entropy(self.net(images), labels)}

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(96, 32, batch_first=True)
    def forward(self, images):
        return self.cells(images.flatten(1, 2).transpose(1, 2).expand(-1, -1, 96))[0][:, -1]

class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 10)
    def forward(self, images):
        found = self.head(images.flatten(1))
        return found if found.sum() > 0 else found * 2

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3 * 32 * 32, 10)
        self.other = nn.Linear(3 * 32 * 32, 4)
    def forward(self, images):
        return {"one": self.one(images.flatten(1)), "other": self.other(images.flatten(1))}
    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs["one"], outputs["other"].sum(1, keepdim=True).expand(-1, 10))

class Hooked(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()
    def on_after_batch_transfer(self, batch, index):
        images, labels = batch
        return {"images": images * 2, "labels": labels}
    def training_step(self, batch):
        return nn.functional.cross_entropy(self.net(batch["images"]), batch["labels"])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def fails():
    raise RuntimeError("no weights here")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's module in the folder a user stands in."""
    (tmp_path / "net_of_mine.py").write_text(OWN)
    (tmp_path / "helper_of_net.py").write_text("WIDTH = 16\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a trace puts the folder there
    yield "net_of_mine"
    for name in ("net_of_mine", "helper_of_net"):
        sys.modules.pop(name, None)


def kept(step: StepTrace, kind: str) -> tuple[float, float]:
    """Return the fixed bytes and the bytes a sample of all allocations of a kind."""
    columns = step.allocations
    found = [i for i, number in enumerate(columns.kind) if KINDS[number] == kind]
    return sum(columns.fixed[i] for i in found), sum(columns.per_sample[i] for i in found)


def saved_on_cpu(network: nn.Module, images: torch.Tensor) -> int:
    """Return the bytes that torch keeps for the backward pass of a real forward pass, weights and inputs left out."""
    left_out = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers(), images)}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out and tensor.dtype.is_floating_point:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = functional.cross_entropy(network(images), torch.zeros(images.shape[0], dtype=torch.long))
    del loss
    return sum(found.values())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_activations_are_what_a_real_forward_pass_keeps(name: str) -> None:
    step = trace(TraceRequest(name, SMALL, "fp32"))
    network = model.build(name, _described(), None).train()
    fixed, per_sample = kept(step, "activation")
    for batch in (4, 10):
        real = saved_on_cpu(network, torch.randn(batch, 3, 32, 32))
        assert fixed + per_sample * batch == pytest.approx(real, rel=0.03), (
            "of the loss's own small tensors a few differ"
        )


def test_gradients_are_one_copy_of_the_weights_and_outlive_the_step() -> None:
    step = trace(TraceRequest("resnet18", SMALL, "fp32"))
    assert kept(step, "gradient") == (sum(step.trainable), 0.0)
    alive = {abs(number) for number in step.backward if number > 0} - {-n for n in step.backward if n < 0}
    assert sum(step.allocations.fixed[number - 1] for number in alive) == sum(step.trainable)
    assert step.parameters == sum(p.numel() for p in model.build("resnet18", _described(), None).parameters())


def test_autocast_is_on_without_a_gpu() -> None:
    fp32, mixed = (trace(TraceRequest("resnet18", SMALL, arithmetic)) for arithmetic in ("fp32", "mixed"))
    assert kept(mixed, "activation")[1] < 0.6 * kept(fp32, "activation")[1]
    weights = sum(size for size in mixed.trainable if size > 4 * 512) / 2
    assert kept(mixed, "half-precision weight")[0] == pytest.approx(weights, rel=0.01)


def test_attention_keeps_no_matrix_of_tokens_by_tokens() -> None:
    inputs = InputSpec("images", height=224, width=224, classes=10)
    step = trace(TraceRequest("vit_b_16", inputs, "mixed"))
    matrix = 12 * 197 * 197 * 2
    assert max(step.allocations.per_sample) < 12 * matrix
    assert any(name.startswith("_scaled_dot_product_flash_attention") for name in step.operations.name)


def test_flops_are_those_torch_counts() -> None:
    step = trace(TraceRequest("resnet18", SMALL, "fp32"))
    network = model.build("resnet18", _described(), None).train()
    with FlopCounterMode(display=False) as counter:
        loss = functional.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.zeros(4, dtype=torch.long))
        torch.autograd.backward(loss)
    columns = step.operations
    total = sum(
        count * (fixed + 4 * each)
        for count, fixed, each in zip(columns.count, columns.flops_fixed, columns.flops_per_sample, strict=True)
    )
    assert total == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_depthwise_convolutions_are_told_from_others() -> None:
    names = set(trace(TraceRequest("mobilenet_v2", SMALL, "fp32")).operations.name)
    assert {"convolution", "convolution/depthwise", "convolution_backward/depthwise"} <= names


def test_a_trace_survives_its_document() -> None:
    step = trace(TraceRequest("resnet18", SMALL, "mixed"))
    assert StepTrace.from_json(step.to_json()) == step


def test_a_trace_is_the_same_each_time() -> None:
    request = TraceRequest("resnet18", SMALL, "mixed")
    assert trace(request).to_json() == trace(request).to_json()


def test_checkpointing_keeps_less_and_computes_more() -> None:
    plain, again = (trace(TraceRequest("resnet18", SMALL, "fp32", checkpointing=on)) for on in (False, True))
    assert kept(again, "activation")[1] < 0.6 * kept(plain, "activation")[1]
    assert sum(again.operations.flops_per_sample) >= sum(plain.operations.flops_per_sample)
    assert kept(again, "gradient") == kept(plain, "gradient")


def test_checkpointing_leaves_the_result_of_a_network_as_it_was() -> None:
    network = model.build("resnet18", _described(), None).train()
    other = copy.deepcopy(network)
    activation_checkpointing.apply(other)
    images = torch.randn(4, 3, 32, 32)
    outputs = [one(images) for one in (network, other)]
    assert torch.equal(*outputs)
    for output in outputs:
        torch.autograd.backward(output.sum())
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.allclose(one.grad, two.grad)


def test_a_network_without_blocks_is_not_checkpointed() -> None:
    with pytest.raises(JobError, match="no repeated block"):
        trace(TraceRequest("alexnet", InputSpec("images", classes=10), "fp32", checkpointing=True))


@pytest.mark.parametrize("name", ["Net", "Lit"])
def test_a_network_of_the_user_s_own_is_traced_with_the_files_it_came_from(own: str, name: str) -> None:
    step = trace(TraceRequest(f"{own}:{name}", SMALL, "fp32"))
    assert sum(step.trainable) == 4 * (16 * 27 + 16 + 160 + 10)
    here = {Path(path).name for path in step.sources if Path(path).parent == Path.cwd()}
    assert here == {"helper_of_net.py", "net_of_mine.py"}


def test_a_network_is_traced_under_its_own_loss_whatever_it_returns(own: str) -> None:
    step = trace(TraceRequest(f"{own}:Pair", SMALL, "fp32"))
    assert {"mse_loss", "mse_loss_backward"} <= set(step.operations.name)
    assert sorted(step.allocations.per_sample[number] for number in step.outputs) == [4 * 4, 10 * 4]


def test_a_module_s_transfer_hooks_make_the_batch_that_its_step_takes(own: str) -> None:
    plain, hooked = (trace(TraceRequest(f"{own}:{name}", SMALL, "fp32")) for name in ("Lit", "Hooked"))
    assert hooked.inputs == plain.inputs, "the batch that is sent is the loader's"
    made = sum(hooked.allocations.per_sample) - sum(plain.allocations.per_sample)
    assert made == 4 * 3 * 32 * 32, "and the one that is made of it lies on the GPU beside it"


def test_tied_weights_count_once(own: str) -> None:
    step = trace(TraceRequest(f"{own}:Tied", InputSpec("tokens", 0, 0, 0, 0, length=16), "fp32"))
    assert step.trainable == [1000 * 64 * 4]


def test_a_guess_about_a_value_is_reported(own: str) -> None:
    assert trace(TraceRequest(f"{own}:Asks", SMALL, "fp32")).guesses == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Recurrent", "cannot be traced"),
        ("fails", "no weights here"),
        ("number", "an object of int"),
        ("Missing", "has no 'Missing'"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_the_reason(own: str, name: str, said: str) -> None:
    with pytest.raises(JobError, match=said):
        trace(TraceRequest(f"{own}:{name}", SMALL, "fp32"))


def test_a_torch_that_would_abort_is_refused_before_it_does() -> None:
    old = object()
    with pytest.raises(JobError, match="cannot trace a step without a GPU") as caught:
        fake_cuda.check(old, has_gpu=False)
    assert "pip install --upgrade torch" in caught.value.fix
    fake_cuda.check(old, has_gpu=True)
    fake_cuda.check()


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(JobError, match="nowhere_at_all"):
        trace(TraceRequest("nowhere_at_all:Net", SMALL, "fp32"))


def _described() -> DataDescription:
    return DataDescription(
        train_samples=1, val_samples=1, channels=3, height=32, width=32, classes=10, bytes_per_sample=0
    )
