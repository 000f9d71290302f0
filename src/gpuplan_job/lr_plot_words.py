"""The words in the picture of a range test: its heading, and texts cut to the room there is.

Called by `lr_plot`. Standard library only; it measures nothing itself.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.contract import Decision, LrResult

_ELLIPSIS = "…"


def heading(result: LrResult, decision: Decision) -> list[str]:
    """Return the verdict in words: what was found, then what else there is to say."""
    found, training = decision.learning_rate, decision.training_learning_rate
    if found is None or training is None or decision.multiplier is None:
        return [f"No learning rate suggested ({decision.verdict}): {decision.reason}.", f"Next: {decision.fix}."]
    batch = result.batch.global_batch
    words = f"Rule {decision.rule}: {found:.3g} at batch {batch}"
    if decision.multiplier != 1:
        words += f"; times {decision.multiplier:.3g} ({decision.transfer}) = {training:.3g} for the training"
    return [
        f"{words}.",
        *filter(None, (_sentence(decision.note), _sentence(decision.warning and f"warning: {decision.warning}"))),
    ]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def description(result: LrResult, decision: Decision) -> str:
    """Return the heading as one text, for those who cannot see the picture."""
    return clean(" ".join(heading(result, decision)))


def clean(text: str) -> str:
    """Return a user's text on one line, with every character that XML or a font cannot show as U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in {"Cc", "Cs", "Cn"} else c for c in " ".join(text.split()))


def wrapped(text: str, fits: Callable[[str], bool], lines: int) -> list[str]:
    """Return a text in at most so many lines that fit; what does not fit ends in an ellipsis."""
    found: list[str] = []
    for word in clean(text).split(" "):
        if found and fits(f"{found[-1]} {word}"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    if len(found) > lines or not all(map(fits, found)):
        found = [_cut(line, fits) for line in [*found[: lines - 1], " ".join(found[lines - 1 :])]]
    return [line for line in found if line]


def _cut(line: str, fits: Callable[[str], bool]) -> str:
    """Return the line, or as much of it as fits with an ellipsis."""
    if fits(line):
        return line
    short, long = 0, len(line)
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if fits(line[:middle].rstrip() + _ELLIPSIS) else (short, middle)
    return line[:short].rstrip() + _ELLIPSIS
