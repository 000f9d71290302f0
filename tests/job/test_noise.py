"""The gradient noise scale: right where the answer is known, and without a trace on the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gpuplan_job import noise
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")


class Point(nn.Module):
    """One vector w; with `half_distance` as its loss the gradient of a sample x is w - x."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w.expand_as(inputs)


def half_distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean() / 2


def samples(count: int, size: int, mean: Tensor, sigma: float) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = mean + sigma * torch.randn(size, len(mean), generator=generator)
        yield x, x


def images(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(size, 1, 4, 4, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for _ in range(count)
    ]


def batch_normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_known_gradient_and_covariance_are_recovered() -> None:
    # G = w - mean has |G|^2 = 20 * 0.5^2 = 5; tr(Sigma) = 20 * 2^2 = 80.
    network = Point(torch.full((20,), 0.5))
    found = noise.measure(network, samples(600, 8, torch.zeros(20), 2.0), half_distance, "fp32", CPU)
    assert found is not None
    assert found.squared_gradient == pytest.approx(5, rel=0.1)
    assert found.trace_covariance == pytest.approx(80, rel=0.05)
    assert found.samples == pytest.approx(16, rel=0.15)
    assert (found.micro_batches, found.micro_batch_size) == (600, 8)


def test_running_sums_give_what_all_gradients_at_once_would() -> None:
    batches = images(16, 6)
    network = batch_normed()
    rows = []
    for inputs, targets in batches:
        gradients = torch.autograd.grad(functional.cross_entropy(network(inputs), targets), list(network.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    stacked = torch.stack(rows)
    # The textbook form: unbiased covariance over micro-batches, times their size; |mean|^2 less its own variance.
    covariance = float(stacked.var(0, correction=1).sum())
    found = noise.measure(batch_normed(), batches, functional.cross_entropy, "fp32", CPU)
    assert found is not None
    assert found.trace_covariance == pytest.approx(6 * covariance, rel=1e-4)
    assert found.squared_gradient == pytest.approx(float(stacked.mean(0).square().sum()) - covariance / 16, rel=1e-3)


def test_weights_buffers_modes_and_gradients_stay_as_they_were() -> None:
    network = batch_normed()
    network[1].eval()  # type: ignore[index] # nn.Sequential, declared as the module it is
    before = {name: value.clone() for name, value in network.state_dict().items()}
    noise.measure(network, images(4, 6), functional.cross_entropy, "fp32", CPU)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == [True, True, False, True, True, True]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_half_precision_gives_about_the_same() -> None:
    full = noise.measure(batch_normed(), images(32, 8), functional.cross_entropy, "fp32", CPU)
    half = noise.measure(batch_normed(), images(32, 8), functional.cross_entropy, "16-mixed", CPU)
    assert full is not None
    assert half is not None
    assert half.trace_covariance == pytest.approx(full.trace_covariance, rel=0.05)


def test_an_unused_parameter_counts_nothing() -> None:
    network = Point(torch.ones(3))
    network.register_parameter("unused", nn.Parameter(torch.ones(5)))
    found = noise.measure(network, samples(4, 8, torch.zeros(3), 1.0), half_distance, "fp32", CPU)
    assert found is not None


def test_a_gradient_that_is_not_finite_is_no_measurement() -> None:
    network = Point(torch.full((3,), math.nan))
    assert noise.measure(network, samples(4, 8, torch.zeros(3), 1.0), half_distance, "fp32", CPU) is None


@pytest.mark.parametrize(
    ("samples", "count"),
    [(16 * 20, 16), (16 * 16, 16), (16 * 12 + 1, 11), (16 * 12 + 5, 12), (16 * 8, 8), (16 * 8 - 1, 0), (16, 0)],
)
def test_the_full_micro_batches_of_one_epoch_are_measured_or_none_where_they_are_few(samples: int, count: int) -> None:
    # A single sample left over joins the last step, which is then longer than a full one.
    assert noise.micro_batches(16, EpochLayout(samples, 16, 1, 1)) == count


def test_asking_for_too_few_micro_batches_measures_none() -> None:
    layout = EpochLayout(16 * 20, 16, 1, 1)
    assert noise.micro_batches(0, layout) == noise.micro_batches(noise.LEAST_MICRO_BATCHES - 1, layout) == 0


def test_where_the_device_runs_bfloat16_no_pass_is_lost_to_the_loss_scale_of_float16() -> None:
    passes: list[Tensor] = []

    def counted(outputs: Tensor, targets: Tensor) -> Tensor:
        passes.append(outputs)
        return half_distance(outputs, targets)

    # Its squared gradient is finite, and 2^32 times as much is not.
    network = Point(torch.full((1,), 1e18))
    found = noise.measure(network, [(torch.zeros(8, 1), torch.zeros(8, 1))] * 2, counted, "16-mixed", CPU)
    assert found is not None
    assert len(passes) == 2


@pytest.mark.parametrize("sizes", [[], [6], [6, 5]])
def test_one_micro_batch_or_unequal_ones_are_refused(sizes: list[int]) -> None:
    batches = [images(1, size)[0] for size in sizes]
    with pytest.raises(ValueError, match="micro-batches"):
        noise.measure(batch_normed(), batches, functional.cross_entropy, "fp32", CPU)
