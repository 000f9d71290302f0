"""The picture of an LR range test: its sweeps, the smooth mean that was judged, and what was made of it.

Called by the client after a run and by whoever looks for a learning rate in Python. It decides nothing. matplotlib is
imported when something is drawn, through its `Figure` alone: no window, no pyplot, no settings of the user's touched.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpuplan_job import rules
from gpuplan_job.curve import smooth
from gpuplan_job.lr_plot_range import finite, losses_shown, rates_shown
from gpuplan_job.lr_plot_words import clean, description, heading, wrapped
from gpuplan_job.suggestion import Suggestion, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gpuplan_job.contract import Curve, Decision, LrResult

_WIDTH, _MARGIN, _LEFT = 9.0, 0.2, 1.55
_PLOT, _ROW, _AXIS = 3.3, 0.27, 0.5
"""Heights in inches: of the curves, of a row of picks, of the axis below them."""
_LINE, _TITLE_LINE, _LEGEND_LINE = 0.2, 0.3, 0.22
_LEGEND_COLUMNS = 3
_SIZE, _TITLE_SIZE = 9.0, 12.0
_DPI = 160
_NEAR_RIGHT = 0.85
"""Share of the width beyond which a label like `2.11e-05` has no room to the right of its mark."""
_LEGEND = ("sweep", "mean", "other-mean", "band", "diverged", "cut")
"""What the legend explains, in order."""
_INK, _GREY, _FAINT = "#111111", "#767676", "#e4e4e4"
_SUGGESTED, _TRAINING, _BAND = "#b84a00", "#0060a0", "#f0b48c"
_DASHES: tuple[tuple[float, ...], ...] = ((6, 2), (2, 1.5), (6, 2, 1.5, 2), (10, 3, 2, 3, 2, 3))
"""Of the mean curves at other batches."""


@dataclass(frozen=True)
class _Row:
    """One learning rate on a line of its own below the curves: no label can meet another there."""

    name: str
    rate: float
    kind: Literal["suggested", "training", "other", "diverged"]
    remark: str = ""


def figure(result: LrResult, decision: Decision, title: str) -> Figure:
    """Return the figure of a range test (x: learning rate, log; y: training loss) with the decision drawn into it.

    Losses far above the start are cut off, and the legend says so. Every mark differs by shape, dashes or hatch, not by
    colour alone. Below the curves a row each: the rule's pick, the training's, the other rules', the divergence.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with _defaults():
        return _figure(result, decision, title)


def svg(result: LrResult, decision: Decision, title: str) -> bytes:
    """Return the figure as a self-contained SVG: the same bytes for the same arguments and matplotlib."""
    metadata = {"Date": None, "Creator": "gpuplan", "Title": clean(title), "Description": description(result, decision)}
    return _rendered(result, decision, title, "svg", metadata)


def png(result: LrResult, decision: Decision, title: str) -> bytes:
    """Return the figure as a PNG: the same bytes for the same arguments and matplotlib."""
    metadata = {"Software": "gpuplan", "Title": clean(title).encode("latin-1", "replace").decode("latin-1")}
    return _rendered(result, decision, title, "png", metadata)


def _rendered(result: LrResult, decision: Decision, title: str, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    with _defaults():
        buffer = io.BytesIO()
        _figure(result, decision, title).savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def _defaults() -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user has set, and give the user's back."""
    heard = logging.getLogger("matplotlib")
    level = heard.level
    with ExitStack() as stack:
        # Where no folder is writable it keeps its fonts in a temporary one and says so: nothing for a user to act on.
        heard.setLevel(logging.ERROR)
        stack.callback(heard.setLevel, level)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        try:
            import matplotlib as mpl
            from matplotlib import style
        except ImportError as error:
            raise ImportError("to draw a range test matplotlib is needed: pip install 'matplotlib>=3.8,<4'") from error
        stack.enter_context(style.context("default"))
        mpl.rcParams.update({"svg.hashsalt": "gpuplan", "hatch.linewidth": 0.8, "hatch.color": _GREY})
        mpl.rcParams.update({"font.size": _SIZE, "axes.edgecolor": _GREY, "text.color": _INK, "axes.linewidth": 0.8})
        yield


def _figure(result: LrResult, decision: Decision, title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = _rows(result, decision)
    canvas = Figure(figsize=(_WIDTH, 1.0))
    FigureCanvasAgg(canvas)
    said = [line for text in heading(result, decision) for line in wrapped(text, _fits(canvas, _SIZE), 3)]
    headline = (wrapped(title, _fits(canvas, _TITLE_SIZE, "bold"), 1) or ["LR range test"])[0]
    others = _other_means(result)
    entries = 4 + len(others)  # at most
    below = -(-entries // _LEGEND_COLUMNS) * _LEGEND_LINE + 0.1
    above = _MARGIN + _TITLE_LINE + _LINE * len(said) + 0.08
    lower = _ROW * len(rows)
    height = above + _PLOT + lower + _AXIS + below
    canvas.set_size_inches(_WIDTH, height)

    width = 1 - (_LEFT + _MARGIN) / _WIDTH
    floor = (below + _AXIS) / height
    picks = canvas.add_axes((_LEFT / _WIDTH, floor, width, max(lower, 0.01) / height))
    curves = canvas.add_axes((_LEFT / _WIDTH, floor + lower / height, width, _PLOT / height), sharex=picks)
    y = height - _MARGIN - _TITLE_SIZE / 72
    for index, line in enumerate((headline, *said)):
        text = canvas.text(_MARGIN / _WIDTH, y / height, line, size=_SIZE if index else _TITLE_SIZE)
        text.set_parse_math(False)
        text.set_fontweight("normal" if index else "bold")
        y -= _LINE if index else _TITLE_LINE
    _scales(curves, picks, result, [row.rate for row in rows])
    _areas(curves, picks, decision)
    _draw_curves(curves, result, others)
    _draw_rows(curves, picks, rows, decision)
    _legend(canvas, curves)
    return canvas


def _fits(canvas: Figure, size: float, weight: str = "normal") -> Callable[[str], bool]:
    """Return what tells whether a line fits between the figure's margins."""
    from matplotlib.text import Text

    room = (_WIDTH - 2 * _MARGIN) * canvas.dpi

    def fits(line: str) -> bool:
        text = Text(0, 0, line, size=size, weight=weight, figure=canvas, parse_math=False)
        return text.get_window_extent().width <= room

    return fits


def _legend(canvas: Figure, curves: Axes) -> None:
    handles, labels = curves.get_legend_handles_labels()
    entries = sorted(zip(handles, labels, strict=True), key=lambda entry: _LEGEND.index(entry[0].get_gid() or ""))
    canvas.legend(
        [handle for handle, _ in entries],
        [label for _, label in entries],
        loc="lower left",
        bbox_to_anchor=(0.5 * _MARGIN / _WIDTH, 0.0),
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.4,
    )


def _scales(curves: Axes, picks: Axes, result: LrResult, marks: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    picks.set_xscale("log")
    picks.set_xlim(*rates_shown([result.sweep.lr_min, result.sweep.lr_max, *marks]))
    picks.xaxis.set_major_locator(LogLocator(numticks=14))
    picks.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: _power(rate)))
    picks.xaxis.set_minor_formatter(NullFormatter())
    picks.set_xlabel("learning rate")
    low, high, highest = losses_shown(result.curves)
    curves.set_ylim(low, high)
    curves.set_ylabel("training loss")
    if highest is not None:
        curves.plot([], [], linestyle="none", label=f"cut off above: highest loss {highest:.3g}", gid="cut")
    curves.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    curves.grid(visible=True, color=_FAINT, linewidth=0.8)
    picks.grid(visible=True, axis="x", color=_FAINT, linewidth=0.8)
    for axes in (curves, picks):
        axes.set_axisbelow(True)


def _areas(curves: Axes, picks: Axes, decision: Decision) -> None:
    if decision.band is not None and decision.band[0] < decision.band[1]:
        low, high = decision.band
        label = f"picks of single sweeps: {low:.3g} .. {high:.3g}"
        curves.axvspan(
            low, high, facecolor=_BAND, edgecolor=_SUGGESTED, alpha=0.45, linewidth=0.6, label=label, gid="band"
        )
    if decision.divergence_lr is not None:
        right = max(curves.get_xlim()[1], decision.divergence_lr)
        for axes, name in ((curves, "a sweep diverged"), (picks, "")):
            axes.axvspan(
                decision.divergence_lr, right, facecolor="none", edgecolor=_GREY, linewidth=0, hatch="////", alpha=0.6,
                label=name or None, gid="diverged",
            )  # fmt: skip


def _draw_curves(axes: Axes, result: LrResult, others: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    count = len(result.curves)
    for index, curve in enumerate(result.curves):
        losses = finite(curve)
        label = f"single sweeps ({count})" if count > 1 else "the sweep"
        own = curve.learning_rates[: len(losses)]
        axes.plot(own, losses, color=_GREY, linewidth=0.8, alpha=0.65, label=None if index else label, gid="sweep")
    for (name, rates, means), dashes in zip(others, _DASHES * len(others), strict=False):
        axes.plot(rates, means, color=_INK, linewidth=1.1, dashes=dashes, label=name, gid="other-mean")
    if mean := _mean(result.curves):
        name = "their mean, smoothed: judged" if count > 1 else "smoothed: judged"
        axes.plot(*mean, color=_INK, linewidth=2.4, label=name, gid="mean")


def _draw_rows(curves: Axes, picks: Axes, rows: Sequence[_Row], decision: Decision) -> None:
    from matplotlib.transforms import ScaledTranslation

    looks = {
        "suggested": ("o", _SUGGESTED, _SUGGESTED, "-"),
        "training": ("D", _TRAINING, "white", "--"),
        "diverged": ("X", _GREY, _GREY, ":"),
        "other": ("|", _INK, _INK, ""),
    }
    picks.set_ylim(len(rows) - 0.5 if rows else 0.5, -0.5)
    picks.set_yticks(range(len(rows)), [row.name for row in rows])
    picks.tick_params(axis="y", length=0)
    low, high = map(math.log10, picks.get_xlim())
    for index, (row, name) in enumerate(zip(rows, picks.get_yticklabels(), strict=True)):
        marker, colour, fill, dashes = looks[row.kind]
        name.set_fontweight("bold" if row.kind == "suggested" else "normal")
        if dashes:
            style = {"color": colour, "linewidth": 1.6, "linestyle": dashes}
            curves.axvline(row.rate, gid=f"line-{row.kind}", **style)  # type: ignore[arg-type] # a dict of mixed values
            picks.plot([row.rate] * 2, [-0.5, index], zorder=1, **style)  # type: ignore[arg-type] # as above
        if row.kind == "suggested" and decision.band is not None:
            picks.plot(decision.band, [index] * 2, color=_BAND, linewidth=7, solid_capstyle="butt", zorder=1.5)
        size, width = (11, 2) if marker == "|" else (6, 1.4)
        picks.plot(
            [row.rate], [index], marker=marker, markersize=size, markeredgewidth=width, color=colour,
            markerfacecolor=fill, linestyle="none", zorder=3, gid=f"pick-{row.kind}",
        )  # fmt: skip
        # To the right of its mark, unless the frame is near; white behind it, so that other rows' lines pass under it.
        left = (math.log10(row.rate) - low) / (high - low) > _NEAR_RIGHT - 0.012 * len(row.remark)
        picks.text(
            row.rate, index, f"{row.rate:.3g}{row.remark}",
            va="center_baseline", ha="right" if left else "left", zorder=4,
            transform=picks.transData + ScaledTranslation((-8 if left else 8) / 72, 0, picks.figure.dpi_scale_trans),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.9}, gid=f"label-{row.kind}",
        )  # fmt: skip


def _rows(result: LrResult, decision: Decision) -> list[_Row]:
    rows = []
    found, training = decision.learning_rate, decision.training_learning_rate
    if found is not None:
        differs = training is not None and f"{training:.3g}" != f"{found:.3g}"
        both = training is not None and not differs
        rows.append(_Row(f"rule {decision.rule}", found, "suggested", ", also for the training" if both else ""))
        if training is not None and differs:
            rows.append(_Row("training", training, "training"))
    for name in rules.names():
        pick = suggest(result, name) if name != decision.rule else None
        if isinstance(pick, Suggestion):
            rows.append(_Row(f"rule {name}", pick.learning_rate, "other"))
    if decision.divergence_lr is not None:
        rows.append(_Row("diverged at", decision.divergence_lr, "diverged"))
    return rows


def _other_means(result: LrResult) -> list[tuple[str, Sequence[float], Sequence[float]]]:
    """Return name, learning rates and smoothed mean losses of the sweeps at other batches."""
    found = []
    for sweeps, name in [*([(result.check, "check")] if result.check else []), *((s, "") for s in result.compared)]:
        if mean := _mean(sweeps.curves):
            found.append((f"batch {sweeps.at.batch.global_batch}" + (f" ({name})" if name else ""), *mean))
    return found


def _mean(curves: list[Curve]) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return learning rates and losses of the smoothed mean; None where the sweeps are too short to be smoothed."""
    try:
        mean = smooth(curves)
    except ValueError:
        return None
    return mean.learning_rates, mean.losses


def _power(rate: float) -> str:
    return f"{rate:g}" if 1e-2 <= rate <= 1e3 else f"1e{math.log10(rate):.0f}"  # noqa: PLR2004 - these read better plain
