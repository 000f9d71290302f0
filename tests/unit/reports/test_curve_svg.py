"""The picture of a range test: well-formed, legible, and the same as the judgement it shows."""

from __future__ import annotations

import dataclasses
import math
import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.backends.fake import synthetic_results
from gpuplan.reports._svg import BOLD, text_width
from gpuplan.reports.curve_svg import curve_svg
from gpuplan_job import contract, rules
from gpuplan_job.contract import Decision
from gpuplan_job.curve import smooth
from gpuplan_job.decision import decide

SVG = "{http://www.w3.org/2000/svg}"
WIDTH, HEIGHT = 900, 524


def clean_result(lr_min: float = 1e-5, lr_max: float = 10.0, runs: int = 3) -> contract.LrResult:
    workload = contract.WorkloadSpec(
        model="resnet18",
        data="digits",
        image_size=None,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        schedule="onecycle",
        label_smoothing=0.0,
        epochs=6,
        precision="fp32",
        seed=0,
        workers=0,
    )
    sweep = contract.SweepSpec(
        runs,
        60,
        lr_min,
        lr_max,
        reference_steps=300,
        noise_micro_batches=8,
        target=contract.LrTarget("edge", "noise-scale", 128, 75),
    )
    job = contract.JobInput("r", "lr-find", 1, "p", workload, contract.BatchSpec(32, 1, 1), "cpu", sweep=sweep)
    return contract.LrResult.from_json(synthetic_results(job)[contract.LR_RESULT_FILE])


def with_losses(result: contract.LrResult, *sweeps: list[float], diverged: bool = False) -> contract.LrResult:
    spec = result.sweep
    step = (spec.lr_max / spec.lr_min) ** (1 / (spec.iterations - 1))
    rates = [spec.lr_min * step**i for i in range(spec.iterations)]
    curves = [
        contract.Curve(rates[: len(s)], s, "diverged" if diverged else "completed", rates[max(0, len(s) - 1)], 0)
        for s in sweeps
    ]
    return dataclasses.replace(result, curves=curves)


def decided(result: contract.LrResult, rule: str = "edge", global_batch: int = 128) -> Decision:
    return decide(result, dataclasses.replace(result.sweep.target, rule=rule, global_batch=global_batch))


def drawn(result: contract.LrResult, batch: int = 128, title: str = "a run") -> ET.Element:
    return ET.fromstring(curve_svg(result, decided(result, global_batch=batch), title))  # noqa: S314 - our own


def texts(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def lines_at(picture: ET.Element, **style: str) -> list[float]:
    """x of the lines of that style, in px."""
    found = [e for e in picture.iter(f"{SVG}line") if all(e.get(k.replace("_", "-")) == v for k, v in style.items())]
    return [float(e.get("x1", "nan")) for e in found if e.get("x1") == e.get("x2")]


def box(element: ET.Element) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a text in the widest usual font."""
    size = float(element.get("font-size", "nan")) * (BOLD if element.get("font-weight") else 1)
    width, x, y = text_width(element.text or "", size), float(element.get("x", "nan")), float(element.get("y", "nan"))
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
    if element.get("transform"):
        return x - 0.8 * size, y - width / 2, x + 0.3 * size, y + width / 2
    return left, y - 0.8 * size, left + width, y + 0.3 * size


def assert_legible(picture: ET.Element) -> None:
    elements = list(picture.iter(f"{SVG}text"))
    for element in elements:
        left, top, right, bottom = box(element)
        assert left >= 0, element.text
        assert top >= 0, element.text
        assert right <= WIDTH, element.text
        assert bottom <= HEIGHT, element.text
    for one, other in combinations(elements, 2):
        a, b = box(one), box(other)
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one.text, other.text)


def test_clean_curve_shows_both_learning_rates_at_their_places() -> None:
    picture = drawn(clean_result())
    assert "0.0844 suggested on 1 GPU" in texts(picture)
    assert "0.169 for training on all GPUs" in texts(picture)
    (suggested,) = lines_at(picture, stroke="#b84a00")
    (training,) = lines_at(picture, stroke="#0060a0", stroke_dasharray="8 4")
    ticks = {e.text: float(e.get("x", "nan")) for e in picture.iter(f"{SVG}text")}
    decade = ticks["0.1"] - ticks["0.01"]
    assert suggested == pytest.approx(ticks["0.1"] + decade * math.log10(0.08438 / 0.1), abs=0.2)
    assert training - suggested == pytest.approx(decade * math.log10(2), abs=0.2)
    assert_legible(picture)


def test_decades_are_labelled_from_the_lowest_to_the_highest_learning_rate() -> None:
    shown = texts(drawn(clean_result()))
    assert [label for label in shown if label in {"1e-5", "1e-4", "1e-3", "0.01", "0.1", "1", "10"}][:7] == [
        "1e-5",
        "1e-4",
        "1e-3",
        "0.01",
        "0.1",
        "1",
        "10",
    ]


def test_equal_learning_rates_share_one_line_and_one_label() -> None:
    picture = drawn(clean_result(), batch=32)
    assert "0.0844 suggested on 1 GPU and for training on all GPUs" in texts(picture)
    assert lines_at(picture, stroke="#0060a0") == []


def test_every_rule_that_was_not_asked_is_named_with_its_pick() -> None:
    result = clean_result()
    named = [text for text in texts(drawn(result)) if text.startswith("rule ")]
    assert [text.split(":")[0] for text in named] == [f"rule {name}" for name in rules.names() if name != "edge"]
    (pick,) = (decided(result, rule=name).learning_rate for name in rules.names() if name == "minimum")
    assert f"rule minimum: {pick:.3g}" in named


def test_strong_line_is_the_curve_that_was_judged() -> None:
    result = clean_result()
    (strong,) = [e for e in drawn(result).iter(f"{SVG}polyline") if e.get("stroke-width") == "3"]
    points = [tuple(map(float, pair.split(","))) for pair in strong.get("points", "").split()]
    mean = smooth(result.curves)
    assert len(points) == len(mean.losses)
    lowest_on_screen = max(range(len(points)), key=lambda i: points[i][1])
    assert mean.losses[lowest_on_screen] == pytest.approx(mean.minimum_loss, abs=0.01)


def test_each_sweep_is_drawn() -> None:
    picture = drawn(clean_result(runs=5))
    assert len([e for e in picture.iter(f"{SVG}polyline") if e.get("stroke-width") == "1"]) == 5


def test_divergence_is_hatched_to_the_right_edge_and_labelled() -> None:
    picture = drawn(clean_result())
    hatched = [
        e for e in picture.iter(f"{SVG}rect") if e.get("fill") == "url(#gpuplan-hatch)" and e.get("height") != "12"
    ]
    assert len(hatched) == 1
    assert float(hatched[0].get("x", "nan")) + float(hatched[0].get("width", "nan")) == pytest.approx(880, abs=0.1)
    assert "diverged at 2.45" in texts(picture)


@pytest.mark.parametrize("blow_up", [10.0, 1e3, 1e12])
def test_height_of_a_blow_up_does_not_change_the_scale_and_is_said(blow_up: float) -> None:
    valley = [2.3 - 1.7 / (1 + math.exp(-0.4 * (i - 35))) for i in range(55)]
    picture = drawn(with_losses(clean_result(), [*valley, 5.0, blow_up], diverged=True))
    (strong,) = [e for e in picture.iter(f"{SVG}polyline") if e.get("stroke-width") == "3"]
    heights = [float(pair.split(",")[1]) for pair in strong.get("points", "").split()]
    assert heights[40] - heights[0] > 60
    assert any(text.startswith("cut off above") for text in texts(picture))
    assert_legible(picture)


def test_one_loss_that_jumps_out_before_the_minimum_does_not_change_the_scale() -> None:
    valley = [2.3 - 1.7 / (1 + math.exp(-0.4 * (i - 35))) for i in range(60)]
    picture = drawn(with_losses(clean_result(), [*valley[:20], 500.0, *valley[21:]]))
    sweep = next(e for e in picture.iter(f"{SVG}polyline") if e.get("stroke-width") == "1")
    heights = [float(pair.split(",")[1]) for pair in sweep.get("points", "").split()]
    assert heights[59] - heights[0] > 60


def test_flat_curve_is_drawn_flat_with_its_verdict_and_what_to_do() -> None:
    picture = drawn(with_losses(clean_result(), *[[2.3 + 0.001 * (i % 3) for i in range(60)] for _ in range(3)]))
    words = " ".join(texts(picture))
    assert "No learning rate suggested (flat)" in words
    assert "Next: " in words
    assert lines_at(picture, stroke="#b84a00") == []
    (strong,) = [e for e in picture.iter(f"{SVG}polyline") if e.get("stroke-width") == "3"]
    heights = [float(pair.split(",")[1]) for pair in strong.get("points", "").split()]
    assert max(heights) - min(heights) < 10


@pytest.mark.parametrize("losses", [[], [2.3], [2.3, math.inf], [math.nan]])
def test_sweep_that_ended_at_once_still_gives_a_picture_with_words(losses: list[float]) -> None:
    picture = drawn(with_losses(clean_result(), losses, diverged=True))
    assert "No learning rate suggested (diverged)" in " ".join(texts(picture))
    assert_legible(picture)


def test_result_without_sweeps_still_gives_a_picture_with_words() -> None:
    assert "No learning rate suggested" in " ".join(texts(drawn(dataclasses.replace(clean_result(), curves=[]))))


def test_learning_rate_beyond_the_sweep_is_inside_the_picture() -> None:
    decision = Decision(
        verdict="ok",
        rule="edge",
        transfer="linear",
        learning_rate=0.5,
        band=(0.4, 0.6),
        multiplier=512.0,
        training_learning_rate=256.0,
    )
    picture = ET.fromstring(curve_svg(clean_result(), decision, "far"))  # noqa: S314 - our own
    assert "1000" in texts(picture)
    assert_legible(picture)


def test_user_strings_cannot_become_markup() -> None:
    text = curve_svg(clean_result(), decided(clean_result(), global_batch=64), "<script>alert(1)</script> & \x00\x1b")
    picture = ET.fromstring(text)  # noqa: S314 - our own
    assert picture.find(f".//{SVG}script") is None
    assert any(t.startswith("<script>alert(1)</script> & \ufffd\ufffd") for t in texts(picture))


def test_picture_is_self_contained_and_the_same_every_time() -> None:
    result = clean_result()
    decision = decide(result)
    text = curve_svg(result, decision, "a run")
    assert curve_svg(result, decision, "a run") == text
    assert "<script" not in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#gpuplan-hatch", "#gpuplan-plot"}


def test_transfer_note_is_shown() -> None:
    result = dataclasses.replace(clean_result(), noise_scale=None)
    decision = decide(result)
    assert decision.note
    shown = texts(ET.fromstring(curve_svg(result, decision, "a run")))  # noqa: S314 - our own
    assert any(decision.note.startswith(text.removesuffix("…")) and text for text in shown)


@given(
    start=st.floats(1e-6, 1e6),
    floor=st.floats(0, 0.95),
    fall_at=st.integers(5, 55),
    rise_at=st.integers(10, 70),
    noise=st.lists(st.floats(-1, 1), min_size=60, max_size=60),
    level=st.sampled_from([0.0, 0.02, 0.5]),
    batch=st.sampled_from([8, 32, 36, 64, 4096, 10**6]),
    span=st.sampled_from([(1e-5, 10.0), (1e-8, 1e-3), (0.2, 0.7), (1e-12, 1000.0), (1e-40, 10.0)]),
    title=st.text(max_size=200),
)
def test_labels_never_overlap_nor_leave_the_picture(  # noqa: PLR0917 - hypothesis passes them by name
    start: float,
    floor: float,
    fall_at: int,
    rise_at: int,
    noise: list[float],
    level: float,
    batch: int,
    span: tuple[float, float],
    title: str,
) -> None:
    losses = [
        start * (floor + (1 - floor) / (1 + math.exp(i - fall_at)) + math.exp(min(i - rise_at, 30)) + level * wobble)
        for i, wobble in enumerate(noise)
    ]
    blown = next((i + 1 for i, loss in enumerate(losses) if loss > 4 * start), 60)
    result = with_losses(clean_result(*span), losses[:blown], losses[:blown], diverged=blown < 60)
    assert_legible(drawn(result, batch, title))


@given(
    decades=st.lists(st.floats(-5, 1), min_size=2, max_size=2).map(sorted),
    divergence=st.floats(-5, 1),
    digits=st.integers(1, 3),
)
def test_marks_may_lie_anywhere_without_their_labels_touching(
    decades: list[float], divergence: float, digits: int
) -> None:
    low, high = (float(f"{10**power:.{digits}g}") for power in decades)
    decision = Decision(
        verdict="ok",
        rule="edge",
        transfer="sqrt",
        learning_rate=low,
        band=(low / 1.5, low * 1.5),
        divergence_lr=10**divergence,
        multiplier=high / low,
        training_learning_rate=high,
    )
    assert_legible(ET.fromstring(curve_svg(clean_result(), decision, "a run")))  # noqa: S314 - our own
