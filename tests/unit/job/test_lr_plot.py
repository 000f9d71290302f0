"""The picture of a range test: what is in it, that it can be read, and that drawing disturbs nobody."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.lines import Line2D

from gpuplan_job import lr_plot, rules
from gpuplan_job.contract import (
    UNDECIDED,
    BatchSpec,
    BatchSweeps,
    Curve,
    Decision,
    LrResult,
    LrTarget,
    Measured,
    SweepAt,
    SweepSpec,
    WorkloadSpec,
)
from gpuplan_job.curve import smooth
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.figure import Figure
    from matplotlib.text import Text

WORKLOAD = WorkloadSpec("resnet18", "digits", "sgd", 0.9, 5e-4, "onecycle", 0.0, 6, "fp32", 0, 0)
POINTS = 60
VALLEY = [2.3 - 1.7 / (1 + math.exp(-0.4 * (i - 35))) for i in range(POINTS)]


def result_of(
    *sweeps: list[float],
    diverged: bool = False,
    span: tuple[float, float] = (1e-5, 10.0),
    batch: int = 128,
    transfer: str = "sqrt",
) -> LrResult:
    low, high = span
    rates = [low * (high / low) ** (i / (POINTS - 1)) for i in range(POINTS)]
    curves = [
        Curve(rates[: len(s)], s, "diverged" if diverged else "completed", rates[max(0, len(s) - 1)], 0) for s in sweeps
    ]
    target = LrTarget("edge", transfer, batch, 100)
    return LrResult(
        run_id="r",
        step="lr-find",
        attempt=1,
        input_sha256="",
        workload=WORKLOAD,
        sweep=SweepSpec(len(sweeps), POINTS, low, high, reference_steps=300, noise_micro_batches=0, target=target),
        batch=BatchSpec(32, 1, 1),
        precision="fp32",
        curves=curves,
        noise_scale=None,
        check=None,
        compared=[],
        decision=UNDECIDED,
        measured=Measured(0.1, 320.0, None, "cpu"),
        versions={},
    )


def learning(runs: int = 3, **how: object) -> LrResult:
    """Return sweeps that fall and then blow up."""
    blown = [*VALLEY[:55], 5.0, 9.0]
    return result_of(*[blown] * runs, diverged=True, **how)  # type: ignore[arg-type] # passed on by name


def drawn(result: LrResult, title: str = "a run") -> Figure:
    return lr_plot.figure(result, decide(result), title)


def lines(figure: Figure, gid: str) -> list[Line2D]:
    return [line for line in figure.findobj(Line2D) if line.get_gid() == gid]


def texts(figure: Figure) -> Iterator[Text]:
    """Yield every text that is drawn, tick labels beyond an axis' limits left out."""
    yield from figure.texts
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from (axes.xaxis.label, axes.yaxis.label, *axes.texts)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if tick.label1.get_visible() and low <= tick.get_loc() * (1 + 1e-12) <= high * (1 + 1e-9):
                    yield tick.label1


def points(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist()


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure) if text.get_text()]


def rows(figure: Figure) -> dict[str, str]:
    """Return the label of each row below the curves by the row's name."""
    (picks,) = [axes for axes in figure.axes if axes.get_xlabel()]
    names = [name.get_text() for name in picks.get_yticklabels()]
    return dict(zip(names, [text.get_text() for text in picks.texts], strict=True))


def assert_legible(figure: Figure) -> None:
    figure.draw_without_rendering()
    inside = figure.bbox
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure) if text.get_text()]
    for name, box in boxes:
        assert box.x0 >= inside.x0 - 1, name
        assert box.x1 <= inside.x1 + 1, name
        assert box.y0 >= inside.y0 - 1, name
        assert box.y1 <= inside.y1 + 1, name
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, (one, other)


def test_the_suggestion_and_the_training_each_have_a_line_and_a_row() -> None:
    result = learning()
    decision = decide(result)
    figure = drawn(result)
    for kind, rate in (("suggested", decision.learning_rate), ("training", decision.training_learning_rate)):
        (line,) = lines(figure, f"line-{kind}")
        assert points(line)[0] == [rate, rate]
    assert rows(figure)["rule edge"] == f"{decision.learning_rate:.3g}"
    assert rows(figure)["training"] == f"{decision.training_learning_rate:.3g}"
    assert_legible(figure)


def test_equal_learning_rates_share_one_line_and_one_row() -> None:
    figure = drawn(learning(batch=32))
    assert lines(figure, "line-training") == []
    assert rows(figure)["rule edge"].endswith(", also for the training")
    assert "training" not in rows(figure)


def test_every_other_rule_has_a_row_with_its_pick() -> None:
    result = learning()
    shown = rows(drawn(result))
    for name in rules.names():
        pick = decide(result, replace(result.sweep.target, rule=name)).learning_rate
        assert shown[f"rule {name}"] == f"{pick:.3g}"


def test_the_strong_line_is_the_curve_that_was_judged() -> None:
    result = learning()
    (strong,) = lines(drawn(result), "mean")
    mean = smooth(result.curves)
    assert points(strong) == (list(mean.learning_rates), list(mean.losses))


def test_each_sweep_is_drawn_and_the_legend_counts_them() -> None:
    figure = drawn(learning(runs=5))
    sweeps = lines(figure, "sweep")
    assert len([line for line in sweeps if line.axes is not None]) == 5
    assert "single sweeps (5)" in words(figure)


def test_sweeps_at_other_batches_are_drawn_each_with_dashes_of_its_own() -> None:
    def at(batch: BatchSpec) -> BatchSweeps:
        return BatchSweeps(SweepAt(batch, 1, POINTS, 100), learning(runs=1).curves)

    check, others = at(BatchSpec(32, 1, 4)), [at(BatchSpec(batch, 1, 1)) for batch in (64, 256)]
    figure = drawn(replace(learning(), check=check, compared=others))
    assert {"batch 128 (check)", "batch 64", "batch 256"} <= set(words(figure))
    dashed = [line for line in lines(figure, "other-mean") if line.axes is not None]
    assert len({str(line._dash_pattern) for line in dashed}) == 3  # type: ignore[attr-defined] # has no getter
    assert_legible(figure)


def test_marks_can_be_told_apart_without_colour() -> None:
    figure = drawn(learning())
    kinds = ("suggested", "training", "diverged")
    drawn_lines = [lines(figure, f"line-{kind}")[0] for kind in kinds]
    assert len({line.get_linestyle() for line in drawn_lines}) == 3
    marks = [lines(figure, f"pick-{kind}")[0] for kind in (*kinds, "other")]
    assert len({str(line.get_marker()) for line in marks}) == 4


def test_the_divergence_is_hatched_to_the_right_edge_and_has_a_row() -> None:
    result = learning()
    figure = drawn(result)
    edge = decide(result).divergence_lr
    curves = next(axes for axes in figure.axes if not axes.get_xlabel())
    hatched = [patch for patch in curves.patches if patch.get_hatch()]
    assert len(hatched) == 1
    box = hatched[0].get_extents().transformed(curves.transData.inverted())
    assert (box.x0, box.x1) == pytest.approx((edge, 10.0), rel=1e-6)
    assert rows(figure)["diverged at"] == f"{edge:.3g}"


def test_the_axis_holds_whole_decades_with_plain_labels() -> None:
    figure = drawn(learning())
    picks = next(axes for axes in figure.axes if axes.get_xlabel())
    assert picks.get_xlim() == pytest.approx((1e-5, 10.0))
    figure.draw_without_rendering()
    assert {"1e-5", "1e-4", "1e-3", "0.01", "0.1", "1", "10"} <= set(words(figure))


@pytest.mark.parametrize("blow_up", [10.0, 1e3, 1e12])
def test_the_height_of_a_blow_up_does_not_change_the_scale_and_is_said(blow_up: float) -> None:
    figure = drawn(result_of([*VALLEY[:55], 5.0, blow_up], diverged=True))
    curves = next(axes for axes in figure.axes if not axes.get_xlabel())
    assert curves.get_ylim()[1] < 5
    assert f"cut off above: highest loss {blow_up:.3g}" in words(figure)
    assert_legible(figure)


def test_one_loss_that_jumps_out_before_the_minimum_does_not_change_the_scale() -> None:
    curves = next(axes for axes in drawn(result_of([*VALLEY[:20], 500.0, *VALLEY[21:]])).axes if not axes.get_xlabel())
    assert curves.get_ylim()[1] < 5


def test_a_flat_curve_is_drawn_flat_with_its_verdict_and_what_to_do() -> None:
    flat = [2.3 + 0.001 * (i % 3) for i in range(POINTS)]
    figure = drawn(result_of(flat, flat, flat))
    said = " ".join(words(figure))
    assert "No learning rate suggested (flat)" in said
    assert "Next: " in said
    assert lines(figure, "line-suggested") == []
    (strong,) = lines(figure, "mean")
    low, high = strong.axes.get_ylim()  # type: ignore[union-attr] # it is drawn
    losses = points(strong)[1]
    assert max(losses) - min(losses) < 0.05 * (high - low)
    assert_legible(figure)


@pytest.mark.parametrize("losses", [[], [2.3], [2.3, math.inf], [math.nan]])
def test_a_sweep_that_ended_at_once_still_gives_a_picture_with_words(losses: list[float]) -> None:
    figure = drawn(result_of(losses, diverged=True))
    assert "No learning rate suggested (diverged)" in " ".join(words(figure))
    assert_legible(figure)


def test_a_result_without_sweeps_still_gives_a_picture_with_words() -> None:
    figure = drawn(replace(learning(), curves=[]))
    assert "No learning rate suggested" in " ".join(words(figure))
    assert_legible(figure)


def test_a_learning_rate_beyond_the_sweep_is_inside_the_picture() -> None:
    decision = Decision("ok", "edge", "linear", 0.5, (0.4, 0.6), multiplier=512.0, training_learning_rate=256.0)
    figure = lr_plot.figure(learning(), decision, "far")
    assert figure.axes[0].get_xlim()[1] == pytest.approx(1000)
    assert_legible(figure)


def test_note_and_warning_are_shown_as_sentences() -> None:
    result = learning()
    decision = replace(decide(result), note="a note", warning="they differ")
    said = words(lr_plot.figure(result, decision, "a run"))
    assert {"A note.", "Warning: they differ."} <= set(said)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@settings(max_examples=6, deadline=None)
@given(
    low=st.floats(-5, 1),
    factor=st.floats(0, 2),
    divergence=st.floats(-5, 1),
    title=st.text(max_size=300),
)
def test_marks_may_lie_anywhere_without_their_labels_touching(
    low: float, factor: float, divergence: float, title: str
) -> None:
    found, training = float(f"{10**low:.3g}"), float(f"{10 ** (low + factor):.3g}")
    decision = Decision(
        verdict="ok",
        rule="edge",
        transfer="sqrt",
        learning_rate=found,
        band=(found / 1.5, found * 1.5),
        divergence_lr=10**divergence,
        multiplier=training / found,
        training_learning_rate=training,
        note="the square root of the batch ratio is used " * 5,
    )
    assert_legible(lr_plot.figure(learning(), decision, title))


@settings(max_examples=5, deadline=None)
@given(
    start=st.floats(1e-6, 1e6),
    floor=st.floats(0, 0.95),
    fall_at=st.integers(5, 55),
    rise_at=st.integers(10, 70),
    span=st.sampled_from([(1e-5, 10.0), (1e-8, 1e-3), (0.2, 0.7), (1e-12, 1000.0), (1e-40, 10.0)]),
)
def test_any_curve_is_legible(
    start: float, floor: float, fall_at: int, rise_at: int, span: tuple[float, float]
) -> None:
    losses = [
        start * (floor + (1 - floor) / (1 + math.exp(i - fall_at)) + math.exp(min(i - rise_at, 30)))
        for i in range(POINTS)
    ]
    blown = next((i + 1 for i, loss in enumerate(losses) if loss > 4 * start), POINTS)
    assert_legible(drawn(result_of(losses[:blown], losses[:blown], diverged=blown < POINTS, span=span)))


def test_user_strings_are_neither_markup_nor_mathematics() -> None:
    result = learning()
    text = lr_plot.svg(result, decide(result), "<script>alert(1)</script> & $x^2$ -- \x00\x1b \ud800 \ufffe \u4e2d")
    ET.fromstring(text)  # noqa: S314 - our own
    assert b"<script" not in text


def test_the_picture_is_self_contained_and_the_same_every_time() -> None:
    result = learning()
    decision = decide(result)
    text = lr_plot.svg(result, decision, "a run")
    assert lr_plot.svg(result, decision, "a run") == text
    assert lr_plot.png(result, decision, "a run") == lr_plot.png(result, decision, "a run")
    assert b"<image" not in text
    assert f"{decision.learning_rate:.3g} at batch 32".encode() in text


def test_the_users_settings_neither_matter_nor_change() -> None:
    result = learning()
    plain = lr_plot.svg(result, decide(result), "a run")
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "text.usetex": True}):
        assert lr_plot.svg(result, decide(result), "a run") == plain
        assert mpl.rcParams["font.size"] == 30
        assert mpl.rcParams["svg.hashsalt"] is None
    assert logging.getLogger("matplotlib").level == logging.NOTSET


def test_drawing_needs_no_home_and_says_nothing_about_it(tmp_path: Path) -> None:
    result = learning()
    stored = tmp_path / "result.json"
    stored.write_text(replace(result, decision=decide(result)).to_json())
    code = """
import sys
from pathlib import Path
from gpuplan_job import lr_plot
from gpuplan_job.contract import LrResult
assert not {"matplotlib", "numpy"} & sys.modules.keys()
result = LrResult.from_json(Path(sys.argv[1]).read_text())
assert lr_plot.png(result, result.decision, "a run")
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG"))}
    environment |= {"HOME": "/dev/null/nowhere", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code, str(stored)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
