"""The picture of an LR range test: its sweeps, the smooth mean that was judged, and what was made of it.

Called by the commands and pages that show a run. Returns one self-contained SVG, the same bytes for the same
arguments; it decides nothing.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from gpuplan.core.units import learning_rate, significant
from gpuplan.reports import _svg as svg
from gpuplan.reports._axes import Axes, Frame, axes, finite
from gpuplan.reports._labels import GAP, place
from gpuplan_job import rules
from gpuplan_job.curve import smooth
from gpuplan_job.suggestion import Suggestion, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpuplan_job.contract import Decision, LrResult

_WIDTH, _HEIGHT = 900, 524
_FRAME = Frame(left=92, right=880, top=134, bottom=430)
_MARGIN = 20
_LOSS_TITLE = 14
"""x of the turned title of the loss axis."""
_LANE = 18
"""Height in px of a line of labels."""
_SIZE, _TITLE_SIZE = 13, 18
_LEGEND_SIZE, _LEGEND_TOP = 12, 492
_INK, _GREY, _GRID = "#111111", "#767676", "#e4e4e4"
_SUGGESTION, _TRAINING = "#b84a00", "#0060a0"
_DEFINITIONS = (
    '<defs><pattern id="gpuplan-hatch" width="8" height="8" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="8" stroke="#9a9a9a" stroke-width="2"/></pattern>'
)


def curve_svg(result: LrResult, decision: Decision, title: str) -> str:
    """Return the SVG of a range test (x: learning rate, log; y: training loss) with the decision drawn into it.

    Losses far above the start are cut off, and the legend says so. Every mark differs by shape or dashes, not by
    colour alone.
    """
    others = _other_picks(result, decision)
    marks = [rate for rate in (decision.learning_rate, decision.training_learning_rate) if rate is not None]
    rates = [result.sweep.lr_min, result.sweep.lr_max, *marks, *(decision.band or ()), *(rate for _, rate in others)]
    # The curve stays above a strip that is kept free for the other rules' names.
    plot = Frame(_FRAME.left, _FRAME.right, _FRAME.top + 6, _FRAME.bottom - 6 - _LANE * len(others))
    scale = axes(plot, result.curves, rates)
    heading = _heading(result, decision)
    parts = [
        svg.tag("title", svg.escaped(title) or "LR range test"),
        svg.tag("desc", svg.escaped(" ".join(heading))),
        _DEFINITIONS + svg.tag("clipPath", _rectangle(_FRAME.left, _FRAME.right), id="gpuplan-plot") + "</defs>",
        svg.tag("rect", width=_WIDTH, height=_HEIGHT, fill="#ffffff"),
        *_areas(decision, scale),
        *_grid(scale),
        *_curves(result, scale),
        *_lines(decision, scale),
        *_ticks_of_others(others, marks, scale),
        *_heading_lines(title, heading, ok=decision.verdict == "ok"),
        *_legend(result, decision, scale),
    ]
    return svg.tag(
        "svg",
        "\n" + "\n".join(parts) + "\n",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        font_family="Helvetica, Arial, 'DejaVu Sans', sans-serif",
        fill=_INK,
    )


def _other_picks(result: LrResult, decision: Decision) -> list[tuple[str, float]]:
    """Return what the rules that were not asked would have picked."""
    found = [(name, suggest(result, name)) for name in rules.names() if name != decision.rule]
    return [(name, pick.learning_rate) for name, pick in found if isinstance(pick, Suggestion)]


def _areas(decision: Decision, scale: Axes) -> Iterator[str]:
    if decision.band is not None:
        low, high = map(scale.x, decision.band)
        yield _rectangle(low, max(high, low + 1), fill=_SUGGESTION, fill_opacity="0.16")
    if decision.divergence_lr is not None:
        start = scale.x(decision.divergence_lr)
        yield _rectangle(start, _FRAME.right, fill="url(#gpuplan-hatch)", fill_opacity="0.6")


def _grid(scale: Axes) -> Iterator[str]:
    for rate in scale.minor_ticks():
        yield _line(scale.x(rate), _FRAME.bottom, _FRAME.bottom + 3, stroke=_GREY)
    for rate, label in scale.decade_ticks():
        yield _line(scale.x(rate), _FRAME.top, _FRAME.bottom + 6, stroke=_GRID)
        yield svg.text(label, _SIZE, x=scale.x(rate), y=_FRAME.bottom + 20, text_anchor="middle")
    for loss, label in scale.loss_ticks():
        y = scale.y(loss)
        yield svg.tag("line", x1=_FRAME.left, x2=_FRAME.right, y1=y, y2=y, stroke=_GRID)
        yield svg.text(label, _SIZE, x=_FRAME.left - 8, y=y + 4, text_anchor="end")
    yield _rectangle(_FRAME.left, _FRAME.right, fill="none", stroke=_GREY)
    middle = (_FRAME.left + _FRAME.right) / 2
    yield svg.text("learning rate", _SIZE, x=middle, y=_FRAME.bottom + 40, text_anchor="middle")
    middle = (_FRAME.top + _FRAME.bottom) / 2
    turned = f"rotate(-90 {_LOSS_TITLE} {middle:g})"
    yield svg.text("training loss", _SIZE, x=_LOSS_TITLE, y=middle, text_anchor="middle", transform=turned)


def _curves(result: LrResult, scale: Axes) -> Iterator[str]:
    sweeps = [list(zip(curve.learning_rates, finite(curve), strict=False)) for curve in result.curves]
    lines = [_curve(sweep, scale, stroke=_GREY, stroke_width=1, stroke_opacity="0.65") for sweep in sweeps if sweep]
    try:
        mean = smooth(result.curves)
    except ValueError:
        # Too short to be smoothed: the verdict in the heading says so.
        pass
    else:
        points = list(zip(mean.learning_rates, mean.losses, strict=True))
        lines.append(_curve(points, scale, stroke=_INK, stroke_width=3))
    yield svg.tag("g", "".join(lines), clip_path="url(#gpuplan-plot)")


def _curve(points: Sequence[tuple[float, float]], scale: Axes, **style: str | float) -> str:
    return svg.polyline([(scale.x(rate), scale.y(loss)) for rate, loss in points], **style)


def _lines(decision: Decision, scale: Axes) -> Iterator[str]:
    """Yield the vertical lines of suggestion, training LR and divergence, each up to its label above the plot."""
    suggested, training = decision.learning_rate, decision.training_learning_rate
    marks: list[tuple[float, str, dict[str, str | float]]] = []
    if decision.divergence_lr is not None:
        text = f"diverged at {learning_rate(decision.divergence_lr)}"
        marks.append((decision.divergence_lr, text, {"stroke": _GREY, "stroke_dasharray": "2 3"}))
    if suggested is not None:
        same = training is not None and learning_rate(training) == learning_rate(suggested)
        text = f"{learning_rate(suggested)} suggested on 1 GPU" + (" and for training on all GPUs" if same else "")
        marks.append((suggested, text, {"stroke": _SUGGESTION, "stroke_width": 2}))
        if training is not None and not same:
            text = f"{learning_rate(training)} for training on all GPUs"
            marks.append((training, text, {"stroke": _TRAINING, "stroke_width": 2, "stroke_dasharray": "8 4"}))
    wanted = [(scale.x(rate), text) for rate, text, _ in marks]
    placed = place(wanted, _SIZE, lanes=max(1, len(marks)), bounds=(GAP, _WIDTH - GAP))
    for label, (_, _, style) in zip(placed, marks, strict=True):
        baseline = _FRAME.top - 9 - _LANE * label.lane
        yield _line(label.x, baseline - _SIZE + 2, _FRAME.bottom, **style)
        yield svg.text(label.text, _SIZE, y=baseline, fill=style["stroke"], **label.anchor)


def _ticks_of_others(others: Sequence[tuple[str, float]], marks: Sequence[float], scale: Axes) -> Iterator[str]:
    lines = [scale.x(rate) for rate in marks]
    for lane, (name, rate) in enumerate(others):
        label = place(
            [(scale.x(rate), f"rule {name}: {learning_rate(rate)}")],
            _LEGEND_SIZE,
            lanes=1,
            bounds=(_FRAME.left, _FRAME.right),
            obstacles=lines,
        )[0]
        foot = _FRAME.bottom - _LANE * lane
        yield svg.tag(
            "rect", x=label.left, y=foot - _LANE + 2, width=label.width, height=_LANE - 3, fill="#ffffff", opacity="0.8"
        )
        yield _line(label.x, foot - _LANE + 2, _FRAME.bottom, stroke=_INK, stroke_width=2)
        yield svg.text(label.text, _LEGEND_SIZE, y=foot - 5, **label.anchor)


def _heading(result: LrResult, decision: Decision) -> list[str]:
    """Return the verdict in words: what was found, then what else there is to say."""
    if decision.learning_rate is None or decision.training_learning_rate is None or decision.multiplier is None:
        return [f"No learning rate suggested ({decision.verdict}): {decision.reason}.", f"Next: {decision.fix}."]
    found = (
        f"Rule {decision.rule}: {learning_rate(decision.learning_rate)} on 1 GPU at batch {result.batch.global_batch}; "
        f"times {significant(decision.multiplier)} ({decision.transfer}) = "
        f"{learning_rate(decision.training_learning_rate)} for training."
    )
    return [found, decision.note] if decision.note else [found]


def _heading_lines(title: str, heading: Sequence[str], *, ok: bool) -> Iterator[str]:
    width = _WIDTH - 2 * _MARGIN
    shown = svg.wrapped(title, _TITLE_SIZE * svg.BOLD, width)
    yield from (svg.text(line, _TITLE_SIZE, x=_MARGIN, y=30, font_weight="bold") for line in shown)
    # Without a suggestion there is one label at most to leave room for, but a reason and a next step to read.
    lines = [svg.wrapped(line, _SIZE, width, lines=1 if ok else 2) for line in heading]
    for row, line in enumerate(chain.from_iterable(lines)):
        yield svg.text(line, _SIZE, x=_MARGIN, y=54 + 17 * row)


def _legend(result: LrResult, decision: Decision, scale: Axes) -> Iterator[str]:
    """Yield what each line and area means, in rows that wrap."""
    x, y = float(_FRAME.left), float(_LEGEND_TOP)
    for kind, text in _legend_entries(result, decision, scale):
        swatch = 26 if kind else 0
        width = swatch + svg.text_width(text, _LEGEND_SIZE)
        if x + width > _WIDTH - _MARGIN:
            x, y = float(_FRAME.left), y + _LANE
        if kind:
            yield _swatch(kind, x, y)
        yield svg.text(text, _LEGEND_SIZE, x=x + swatch, y=y)
        x += width + _MARGIN


def _legend_entries(result: LrResult, decision: Decision, scale: Axes) -> Iterator[tuple[str, str]]:
    yield "sweep", f"single sweeps ({len(result.curves)})"
    yield "mean", "their smoothed mean, which is judged"
    if decision.band is not None:
        low, high = map(learning_rate, decision.band)
        yield "band", f"picks of the single sweeps: {low}" + (f" .. {high}" if high != low else "")
    if decision.divergence_lr is not None:
        yield "hatch", "a sweep diverged"
    if scale.highest is not None:
        yield "", f"cut off above, highest loss {significant(scale.highest)}"


def _swatch(kind: str, x: float, y: float) -> str:
    middle = y - 4
    if kind in {"sweep", "mean"}:
        style: dict[str, str | float] = {"stroke": _GREY} if kind == "sweep" else {"stroke": _INK, "stroke_width": 3}
        return svg.tag("line", x1=x, x2=x + 20, y1=middle, y2=middle, **style)
    fill = {"fill": _SUGGESTION, "fill_opacity": "0.16"} if kind == "band" else {"fill": "url(#gpuplan-hatch)"}
    return svg.tag("rect", x=x, y=middle - 6, width=20, height=12, stroke=_GREY, stroke_width="0.5", **fill)


def _rectangle(left: float, right: float, **style: str | float) -> str:
    """Return a rectangle as high as the plot."""
    height = _FRAME.bottom - _FRAME.top
    return svg.tag("rect", x=left, y=_FRAME.top, width=max(right - left, 0.0), height=height, **style)


def _line(x: float, top: float, bottom: float, **style: str | float) -> str:
    return svg.tag("line", x1=x, x2=x, y1=top, y2=bottom, **style)
