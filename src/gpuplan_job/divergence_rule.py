"""When a training's losses say that it has diverged or learns nothing: a rule over blocks of optimizer steps.

Called by `divergence` and by the benchmark that holds it against recorded trainings. Standard library only; it reads no
clock and knows no file. Its thresholds are justified in docs/guards.md.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Sign = Literal["not finite", "exploding", "collapsed", "not falling", "at chance"]

LEAST_BLOCK, MOST_BLOCK, BLOCKS = 10, 200, 100
"""Steps of a block: a hundredth of the training, within these bounds."""
_SIGMAS = 3.0
_ABOVE = 0.5
"""Share of the reference by which an exploding loss lies above it."""
_EXPLODING_BLOCKS = 8
"""In a row; a spike that passes is shorter."""
_FAR_ABOVE, _FAR_BLOCKS = 10.0, 5
"""Multiple of the reference beyond which so few blocks do."""
_WINDOW = 10
"""Newest blocks whose median is judged: one spike does not move it."""
_NEWEST, _COMING_DOWN = 2, 0.9
"""A loss whose newest blocks lie at this share of those before, or below, is on its way down."""
_LEARNT, _LOST = 0.2, 0.8
"""A collapse: the loss had fallen by this share of its reference, and this share of the fall is gone."""
_SHARE_AT_CHANCE, _SHARE_AT_START = 0.15, 0.5
"""Of the training, after which the loss has to lie below chance; where chance is not known, below its start."""
_LEAST_FALL_STEPS = 120
_LEAST_FALL, _LEAST_FALL_FROM_START = 0.02, 0.01
"""Share of the reference by which it has to lie below."""
_MEDIAN_ERROR = 1.25
"""Of a median over that of a mean, for normal errors: sqrt(pi / 2)."""
_EPOCHS, _EPOCHS_SHARE = 3, 0.2
"""Epochs in a row at chance accuracy that count, and the least share of all."""
_NEAR_CHANCE = 0.9
"""Share of chance loss above which a training loss says no more than the accuracy."""


@dataclass(frozen=True)
class Finding:
    """A sign of a training that should not go on."""

    sign: Sign
    step: int
    """Optimizer steps done."""
    text: str
    """What was seen, in words."""
    too_high: bool
    """Whether a learning rate that is too high explains it; if not, one that is too low."""


@dataclass
class _State:
    """What the rule remembers; plain numbers, so that a checkpoint can hold it."""

    steps: int = 0
    pending: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    """Losses of the first block."""
    recent: list[tuple[float, float]] = field(default_factory=list)
    """Mean and standard error of the newest blocks."""
    later: tuple[int, float, float] = (0, 0.0, 0.0)
    """Of all blocks: their number, the sum of their means and that of their squares."""
    best: float = math.inf
    """Lowest mean of two blocks in a row."""
    above: int = 0
    far_above: int = 0
    rose: bool = False
    """Whether the loss ever stood clearly above that of the first step: the mark of a rate that is too high."""
    flat_epochs: int = 0


class LossRule:
    """Judges a training of `total` optimizer steps and `epochs` epochs, block by block.

    `chance` is the loss in nats of always answering with the classes' frequencies, None where it is not known.
    """

    def __init__(self, total: int, epochs: int, chance: float | None = None) -> None:
        self.total = total
        self.epochs = epochs
        self.chance = chance
        self.block = block_steps(total)
        self._state = _State()

    def add(self, losses: Sequence[float]) -> Finding | None:
        """Take the mean losses of the next optimizer steps and return the first sign they complete."""
        state = self._state
        for loss in losses:
            state.steps += 1
            if not math.isfinite(loss):
                return self._finding("not finite", f"the loss is {loss}", too_high=True)
            state.pending.append(loss)
            if len(state.pending) == self.block:
                found = self._judge(state.pending)
                state.pending = []
                if found is not None:
                    return found
        return None

    def epoch(self, accuracy: float, samples: int, chance_accuracy: float, train_loss: float) -> Finding | None:
        """Take an epoch's validation accuracy over so many samples, and its training loss; return a sign it completes.

        `chance_accuracy` is that of always answering with the largest class.
        """
        state = self._state
        spread = math.sqrt(chance_accuracy * (1 - chance_accuracy) / samples)
        flat = accuracy <= chance_accuracy + _SIGMAS * spread
        learns = self.chance is not None and train_loss < _NEAR_CHANCE * self.chance
        state.flat_epochs = state.flat_epochs + 1 if flat and not learns else 0
        if state.flat_epochs < max(_EPOCHS, math.ceil(_EPOCHS_SHARE * self.epochs)):
            return None
        seen = f"validation accuracy {accuracy:.3g} is that of chance in {state.flat_epochs} epochs in a row"
        return self._finding("at chance", seen, too_high=state.rose)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        recent = [(mean, error) for mean, error in state["recent"]]
        self._state = _State(**{**state, "recent": recent, "later": tuple(state["later"])})

    def _judge(self, losses: list[float]) -> Finding | None:
        state = self._state
        mean, error = _mean(losses)
        if not state.start:
            state.start = losses
        start, start_error = _mean(state.start)
        # The first loss is that of the weights as they were made: where chance is known, it is no outlier either.
        first = state.start[0] if self.chance is None else max(state.start[0], self.chance)
        top = start if self.chance is None else first
        bottom = start if self.chance is None else min(start, self.chance)
        # Cut off where it explodes: how far it does says nothing of how sure a fall is.
        count, total, squares = state.later
        cut = min(mean, top + _ABOVE * abs(top))
        state.later = (count + 1, total + cut, squares + cut * cut)
        state.recent = [*state.recent, (mean, error)][-_WINDOW:]
        state.best = min(state.best, statistics.fmean(mean for mean, _ in state.recent[-_NEWEST:]))
        over = mean - _SIGMAS * error - top
        state.above = state.above + 1 if over > _ABOVE * abs(top) else 0
        state.far_above = state.far_above + 1 if over > _FAR_ABOVE * abs(top) else 0
        state.rose = state.rose or max(losses) > first + _ABOVE * abs(first)
        if (state.above >= _EXPLODING_BLOCKS or state.far_above >= _FAR_BLOCKS) and not self._comes_down():
            steps = state.above * self.block
            seen = f"the loss has been far above its start for {steps} steps: {mean:.3g}, it started at {start:.3g}"
            return self._finding("exploding", seen, too_high=True)
        if state.above or len(state.recent) < _WINDOW:
            return None
        return self._collapsed(bottom) or self._flat(start, start_error)

    def _comes_down(self) -> bool:
        """Tell whether the newest blocks lie well below those before them, by the best the training has reached."""
        means = [mean for mean, _ in self._state.recent]
        earlier = means[:-_NEWEST]
        if not earlier:
            return False
        above = [statistics.fmean(part) - self._state.best for part in (means[-_NEWEST:], earlier[-_FAR_BLOCKS:])]
        return above[0] < _COMING_DOWN * above[1]

    def _level(self) -> tuple[float, float]:
        """Return the median of the newest blocks, and its error: that of a mean, a little more for a median."""
        recent = self._state.recent
        error = math.hypot(*(error for _, error in recent)) / len(recent)
        return statistics.median(mean for mean, _ in recent), _MEDIAN_ERROR * error

    def _pairs(self) -> list[float]:
        """Return the means of each two of the newest blocks: spikes still show in them, and noise shows less."""
        means = [mean for mean, _ in self._state.recent]
        return [statistics.fmean(pair) for pair in zip(means[::2], means[1::2], strict=True)]

    def _collapsed(self, bottom: float) -> Finding | None:
        state = self._state
        level, error = self._level()
        learnt = bottom - state.best
        gone = state.best + _LOST * learnt
        if learnt <= _LEARNT * abs(bottom) or level - _SIGMAS * error <= gone or min(self._pairs()) <= gone:
            return None
        if self._comes_down():
            return None
        steps = _WINDOW * self.block
        seen = f"the loss had come down to {state.best:.3g}, and has been back at {level:.3g} for {steps} steps"
        return self._finding("collapsed", seen, too_high=True)

    def _flat(self, start: float, start_error: float) -> Finding | None:
        state = self._state
        known = self.chance is not None
        share = _SHARE_AT_CHANCE if known else _SHARE_AT_START
        if state.steps < max(share * self.total, _LEAST_FALL_STEPS):
            return None
        reference = start if self.chance is None else self.chance
        if reference - state.best > _LEARNT * abs(reference):
            return None  # it has learnt: what follows is a spike, or a collapse
        if max(self._pairs()) > reference + _ABOVE * abs(reference):
            return None  # a spike within the window moves even its median
        least = (_LEAST_FALL if known else _LEAST_FALL_FROM_START) * abs(reference)
        # All that was seen says how sure it is, and the newest blocks that it is still so.
        count, total, squares = state.later
        level, newest = total / count, self._level()[0]
        error = math.sqrt(max(0.0, squares / count - level * level) / count)
        error = error if known else math.hypot(error, start_error)
        if reference - level + _SIGMAS * error >= least or reference - newest >= least:
            return None
        what = f"chance, {reference:.3g}" if known else f"its start, {reference:.3g}"
        seen = f"the loss is not below {what}, after {state.steps} of {self.total} steps: {newest:.3g}"
        return self._finding("not falling", seen, too_high=state.rose)

    def _finding(self, sign: Sign, text: str, *, too_high: bool) -> Finding:
        return Finding(sign, self._state.steps, text, too_high)


def block_steps(total: int) -> int:
    """Return the optimizer steps of a block in a training of so many."""
    return min(MOST_BLOCK, max(LEAST_BLOCK, total // BLOCKS))


def _mean(losses: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error."""
    if len(losses) < 2:  # noqa: PLR2004 - one value has no spread
        return losses[0], 0.0
    return statistics.fmean(losses), statistics.stdev(losses) / math.sqrt(len(losses))
