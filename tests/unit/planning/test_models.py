from itertools import pairwise

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.planning.models import ModelFacts, Point, at, lookup, table


def known(model: str, image_size: int | None = None, classes: int = 1000) -> ModelFacts:
    facts = lookup(model, image_size, classes)
    assert isinstance(facts, ModelFacts)
    return facts


@pytest.mark.parametrize(
    ("model", "parameters", "gflop"),
    [("resnet18", 11_689_512, 3.63), ("resnet50", 25_557_032, 8.18), ("vit_b_16", 86_567_656, 35.1)],
)
def test_parameters_and_flops_agree_with_what_torchvision_publishes(model: str, parameters: int, gflop: float) -> None:
    facts = known(model, 224)
    assert facts.parameters == parameters
    assert facts.forward_gflop == pytest.approx(gflop, rel=0.01)


def test_every_torchvision_family_is_in_the_table() -> None:
    families = "alexnet convnext densenet efficientnet googlenet inception maxvit mnasnet mobilenet regnet resnet "
    families += "resnext shufflenet squeezenet swin vgg vit wide"
    for family in families.split():
        assert any(name.startswith(family) for name in table()), family
    assert len(table()) >= 80


@pytest.mark.parametrize("name", sorted(table()))
def test_figures_of_each_model_are_in_order_of_size_and_positive(name: str) -> None:
    points = table()[name]
    sides = [p.image_size for p in points]
    assert sides == sorted(set(sides))
    for point in points:
        assert min(point.parameters, point.parameters_per_class, point.operations) > 0
        assert point.forward_gflop > 0
        # Autocast halves activations at best, and never keeps more than fp32 does.
        assert 0.45 * point.saved_mib <= point.saved_mib_mixed <= 1.01 * point.saved_mib
    full = [p for p in points if p.image_size >= 64]
    assert all(a.saved_mib < b.saved_mib for a, b in pairwise(full))


def test_fewer_classes_take_parameters_from_the_head_only() -> None:
    assert known("resnet18", 224, 1000).parameters - known("resnet18", 224, 10).parameters == 990 * 513


def test_no_image_size_means_224() -> None:
    assert known("resnet50") == known("resnet50", 224)


def test_a_convolutional_net_grows_with_the_area_between_and_beyond_measured_sizes() -> None:
    at_224 = known("resnet50", 224)
    for side in (160, 192, 256, 448):
        facts = known("resnet50", side)
        assert facts.forward_gflop == pytest.approx(at_224.forward_gflop * (side / 224) ** 2, rel=0.01)
        assert facts.saved_mib == pytest.approx(at_224.saved_mib * (side / 224) ** 2, rel=0.01)
    assert "scaled by area" in known("resnet50", 448).how
    assert "interpolated" in known("resnet50", 160).how
    assert "measured at 224" in at_224.how


def test_small_images_are_taken_from_the_small_stem_and_not_scaled_down_from_224() -> None:
    # Without stride and max-pool the resolution inside is four times as high: 16 times the work a pixel.
    small, large = known("resnet18", 32), known("resnet18", 64)
    assert small.forward_gflop > 3 * large.forward_gflop
    assert known("resnet18", 8, 10).saved_mib < small.saved_mib


def test_an_unknown_name_says_so_and_suggests_a_near_one() -> None:
    facts = lookup("resnet51")
    assert isinstance(facts, Unknown)
    assert "resnet50" in facts.unknown


def test_a_class_of_ones_own_is_unknown_not_zero() -> None:
    facts = lookup("mine.models:Net")
    assert isinstance(facts, Unknown)
    assert "measured" in facts.unknown


def test_images_too_small_for_a_model_are_unknown() -> None:
    assert isinstance(lookup("vgg16", 8), Unknown)
    assert isinstance(lookup("inception_v3", 64), Unknown)


def test_at_returns_a_measured_point_untouched() -> None:
    low = Point(64, 10, 1, 0, 1.0, 2.0, 1.0, 5)
    high = Point(128, 10, 1, 0, 4.0, 8.0, 4.0, 5)
    assert at((low, high), 128) == (high, "measured at 128 px")
    between, _ = at((low, high), 96)
    assert between.saved_mib == pytest.approx(2.0 * (96 / 64) ** 2)
