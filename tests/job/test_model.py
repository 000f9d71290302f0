"""Networks by name: fitted to channels, classes and size, reproducible, and refused with a size or name that works."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from gpuplan_job import model
from gpuplan_job.contract import DataDescription
from gpuplan_job.failures import JobError


def description(channels: int, side: int, width: int | None = None) -> DataDescription:
    return DataDescription(100, 10, channels, side, width or side, 7, 1.0)


@pytest.mark.parametrize(
    ("name", "channels", "side"),
    [
        ("resnet18", 1, 8),
        ("mobilenet_v3_small", 1, 8),
        ("regnet_y_400mf", 1, 8),
        ("shufflenet_v2_x0_5", 3, 8),
        ("googlenet", 3, 8),
        ("resnet18", 3, 32),
        ("vgg11", 4, 32),
        ("squeezenet1_1", 1, 32),
        ("alexnet", 1, 32),
        ("efficientnet_b0", 3, 32),
        ("swin_t", 3, 32),
        ("vit_b_16", 1, 32),
    ],
)
def test_images_of_the_data_become_logits_in_training_and_evaluation(name: str, channels: int, side: int) -> None:
    network = model.build(name, description(channels, side), None)
    images = torch.randn(2, channels, side, side)
    with torch.no_grad():
        assert network.train()(images).shape == (2, 7)
        assert network.eval()(images).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "mobilenet_v3_small"])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    built = []
    for _ in range(2):
        torch.manual_seed(5)
        built.append(model.build(name, description(1, 8), None).state_dict())
    assert all(torch.equal(built[0][key], built[1][key]) for key in built[0])
    other = model.build(name, description(1, 8), None).state_dict()
    stem = next(iter(other))
    assert not torch.equal(other[stem], built[0][stem])


def test_checking_the_size_draws_nothing_from_the_seed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name in ("resnet18", "regnet_y_400mf", "vit_b_16"):
        model.size_problem(name, description(3, 32), (32, 32))
    assert torch.equal(before, torch.get_rng_state())


def test_a_small_resnet_keeps_its_resolution_and_a_large_one_its_own_stem() -> None:
    small = cast("nn.Conv2d", model.build("resnet18", description(3, 63), None).get_submodule("conv1"))
    large = model.build("resnet18", description(3, 64), None)
    assert (small.kernel_size, small.stride) == ((3, 3), (1, 1))
    stem = cast("nn.Conv2d", large.get_submodule("conv1"))
    assert (stem.kernel_size, stem.stride) == ((7, 7), (2, 2))
    assert isinstance(large.get_submodule("maxpool"), nn.MaxPool2d)


def test_another_number_of_channels_keeps_the_variance_of_the_output() -> None:
    torch.manual_seed(0)
    outputs = []
    for channels in (1, 3, 12):
        stem = model.build("resnet18", description(channels, 64), None).get_submodule("conv1")
        outputs.append(float(stem(torch.randn(4, channels, 64, 64)).detach().std()))
    assert outputs == pytest.approx([outputs[1]] * 3, rel=0.15)


@pytest.mark.parametrize(
    ("name", "side", "fix"),
    [("vgg11", 8, "--image-size 32"), ("vit_b_16", 30, "--image-size 32"), ("inception_v3", 32, "--image-size 48")],
)
def test_a_size_the_network_does_not_take_is_refused_with_one_that_works(name: str, side: int, fix: str) -> None:
    with pytest.raises(JobError, match=f"{name} does not take {side}x{side} images") as caught:
        model.build(name, description(3, side), None)
    assert fix in caught.value.fix


def test_an_image_size_goes_before_the_datas_own() -> None:
    assert model.build("vit_b_16", description(3, 33, 50), 32)(torch.randn(1, 3, 32, 32)).shape == (1, 7)
    with pytest.raises(JobError, match="33x50"):
        model.build("vit_b_16", description(3, 33, 50), None)


def test_an_unknown_name_brings_the_closest_ones() -> None:
    with pytest.raises(JobError, match="'resnet19'") as caught:
        model.build("resnet19", description(3, 32), None)
    assert "resnet18" in caught.value.fix


def test_a_segmentation_model_is_no_classifier() -> None:
    with pytest.raises(JobError, match="fcn_resnet50"):
        model.build("fcn_resnet50", description(3, 64), None)
