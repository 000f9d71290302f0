"""What a search in Python found: the learning rate or why there is none, the curves, the picture.

Returned by `find_lr`. It must not import torch, so that a kept one can be read anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import lr_plot
from gpuplan_job.atomic import write_atomic
from gpuplan_job.finder.errors import NoLearningRateError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpuplan_job.contract import Decision, LrResult


@dataclass(frozen=True)
class FoundLr:
    """A learning rate with the evidence for it; in a notebook it shows its curve."""

    decision: Decision
    """Verdict, picks, band, divergence, and what each transfer policy says."""
    result: LrResult
    """Curves, noise scale and the conditions they hold under."""
    group_shares: tuple[float, ...]
    """LR of each parameter group over the learning rate, as the optimizer came."""
    title: str

    @property
    def ok(self) -> bool:
        """Whether there is a learning rate."""
        return self.decision.verdict == "ok"

    @property
    def learning_rate(self) -> float:
        """The learning rate for one device at the batch of the search.

        Raises:
            NoLearningRateError: the curve gave none; the message says why and what to do.
        """
        return self._given(self.decision.learning_rate)

    @property
    def training_learning_rate(self) -> float:
        """The learning rate for the training: carried over to its global batch where that differs.

        Raises:
            NoLearningRateError: the curve gave none; the message says why and what to do.
        """
        return self._given(self.decision.training_learning_rate)

    @property
    def group_learning_rates(self) -> tuple[float, ...]:
        """What each parameter group of the training's optimizer should have.

        Raises:
            NoLearningRateError: the curve gave none; the message says why and what to do.
        """
        return tuple(share * self.training_learning_rate for share in self.group_shares)

    def figure(self) -> Figure:
        """Return the curve as a matplotlib figure."""
        return lr_plot.figure(self.result, self.decision, self.title)

    def plot(self, path: str | Path) -> Path:
        """Write the curve to a file, as SVG or PNG by its suffix, and return the path.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written.
        """
        target = Path(path)
        kinds = {".svg": lr_plot.svg, ".png": lr_plot.png}
        if target.suffix.lower() not in kinds:
            raise ValueError(f"{target.name}: name a file that ends in .svg or .png")
        write_atomic(target, kinds[target.suffix.lower()](self.result, self.decision, self.title))
        return target

    def _repr_svg_(self) -> str:
        return lr_plot.svg(self.result, self.decision, self.title).decode()

    def _repr_png_(self) -> bytes:
        return lr_plot.png(self.result, self.decision, self.title)

    def __str__(self) -> str:
        decision = self.decision
        if decision.learning_rate is None or decision.training_learning_rate is None:
            return f"no learning rate ({decision.verdict}): {decision.reason}\n  next: {decision.fix}"
        low, high = decision.band or (decision.learning_rate, decision.learning_rate)
        batch = self.result.batch.global_batch
        lines = [
            f"learning rate {decision.learning_rate:.3g} at batch {batch}"
            f" (rule {decision.rule}, single sweeps {low:.3g} .. {high:.3g}"
            + (")" if decision.divergence_lr is None else f", diverges at {decision.divergence_lr:.3g})")
        ]
        if self.result.sweep.target.global_batch != batch:
            lines.append(
                f"  for the training at batch {self.result.sweep.target.global_batch}:"
                f" {decision.training_learning_rate:.3g} ({decision.transfer}, x {decision.multiplier:.3g})"
            )
        if len(set(self.group_shares)) > 1:
            rates = ", ".join(f"{rate:.3g}" for rate in self.group_learning_rates)
            lines.append(f"  parameter groups: {rates}")
        lines += [f"  note: {decision.note}"] * bool(decision.note)
        lines += [f"  warning: {decision.warning}"] * bool(decision.warning)
        return "\n".join(lines)

    def _given(self, rate: float | None) -> float:
        if rate is None:
            raise NoLearningRateError(
                f"the range test gave no learning rate ({self.decision.verdict}): {self.decision.reason}; "
                f"{self.decision.fix}"
            )
        return rate
