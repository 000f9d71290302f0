"""The traces that ship: there is one of every torchvision classifier, and what is scaled is scaled rightly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.planning.traces import shipped
from gpuplan.planning.traces.shipped import CLASSES, find, names, pack
from gpuplan.planning.traces.source import Shipped
from gpuplan_job.step_trace import Arithmetic, InputSpec, StepTrace, TraceRequest
from unit.planning.tracing import MIB, trace

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = {
    "alexnet": (61_100_840, 1.4),
    "efficientnet_b0": (5_288_548, 0.8),
    "mobilenet_v2": (3_504_872, 0.6),
    "resnet18": (11_689_512, 3.6),
    "resnet50": (25_557_032, 8.2),
    "vgg16": (138_357_544, 31.0),
    "vit_b_16": (86_567_656, 35.1),
}
"""Parameters and forward GFLOP (a multiply-add is two) of an image, from the documentation of torchvision's weights."""


def asked(model: str, side: int = 224, classes: int = 1000, arithmetic: Arithmetic = "fp32") -> TraceRequest:
    return TraceRequest(model, InputSpec("images", height=side, width=side, classes=classes), arithmetic)


def found(request: TraceRequest) -> StepTrace:
    shipped = find(request)
    assert shipped is not None
    return shipped.trace


def gflop(step: StepTrace) -> float:
    columns = step.operations
    rows = zip(columns.forward, columns.count, columns.flops_per_sample, strict=True)
    return sum(count * flops for forward, count, flops in rows if forward) / 1e9


def kept(step: StepTrace) -> float:
    columns = step.allocations
    return sum(size for kind, size in zip(columns.kind, columns.per_sample, strict=True) if kind == 0)


def test_every_model_has_both_arithmetics_at_some_side() -> None:
    assert len(names()) == 80
    for name in names():
        for arithmetic in ("fp32", "mixed"):
            assert any(find(asked(name, side, arithmetic=arithmetic)) for side in (224, 256, 299, 384, 480)), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_flops_are_torchvision_s(name: str) -> None:
    step = found(asked(name))
    parameters, flops = PUBLISHED[name]
    assert step.parameters == parameters
    assert gflop(step) == pytest.approx(flops, rel=0.04)


def test_other_classes_change_the_head_and_nothing_else() -> None:
    many, few = found(asked("resnet50")), found(asked("resnet50", classes=10))
    assert many.parameters - few.parameters == 990 * 2049
    assert kept(many) == pytest.approx(kept(few), rel=1e-3)
    changed = [i for i, size in enumerate(many.trainable) if size != few.trainable[i]]
    assert len(changed) == 2, "weight and bias of the last layer"
    assert found(asked("resnet50", classes=CLASSES)).trainable[-1] == 4 * CLASSES


def test_between_traced_sides_convolutions_are_exact_at_multiples_of_32() -> None:
    shipped = find(asked("resnet50", side=160))
    assert shipped is not None
    assert shipped.size_error == 0
    whole, part = kept(found(asked("resnet50"))), kept(shipped.trace)
    assert part / whole == pytest.approx((160 / 224) ** 2, rel=0.01)


def test_a_side_between_says_what_it_may_be_off_by() -> None:
    shipped = find(asked("resnet50", side=150))
    assert shipped is not None
    assert shipped.size_error == pytest.approx(13 / 150)
    assert "scaled between" in shipped.how


def test_small_images_have_the_small_stem() -> None:
    assert kept(found(asked("resnet18", side=32))) > 2 * (32 / 96) ** 2 * kept(found(asked("resnet18", side=96)))


@pytest.mark.parametrize(
    "request_",
    [
        asked("vgg16", side=8),
        asked("no_such_model"),
        TraceRequest("resnet50", InputSpec("images"), "fp32", checkpointing=True),
        TraceRequest("resnet50", InputSpec("images", height=224, width=448), "fp32"),
        TraceRequest("mine:Net", InputSpec("images"), "fp32"),
    ],
    ids=lambda request: request.model,
)
def test_what_does_not_ship_is_unknown_and_says_how_to_get_it(request_: TraceRequest) -> None:
    answer = Shipped().find(request_)
    assert isinstance(answer, Unknown)
    assert "pip install 'gpuplan[local]'" in answer.unknown


def test_a_source_answers_with_the_same_object() -> None:
    source = Shipped()
    assert source.find(asked("resnet50")) is source.find(asked("resnet50"))


def test_a_file_is_read_back_as_it_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = trace((CLASSES * 4096, 4 * MIB))
    (tmp_path / f"chain{shipped.SUFFIX}").write_bytes(pack([step]))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    shipped.names.cache_clear()
    try:
        back = found(asked("chain", side=8, classes=CLASSES))
    finally:
        shipped.names.cache_clear()
    assert (back.trainable, back.forward, back.backward) == (step.trainable, step.forward, step.backward)
