"""The divergence guard stops bad trainings early and no good one; beside Lightning's EarlyStopping.

    python benchmarks/divergence_guard.py
    python benchmarks/divergence_guard.py --markdown > benchmarks/results/divergence-guard-$(date -u +%F).md
    PYTHONPATH=$HOME/peers/lr python benchmarks/divergence_guard.py --record

Recorded trainings (`data/training_losses.json.xz`) of three networks on two real data sets, from a thousandth of the
best learning rate to a thousand times it, and generated ones are shown to the guard step by step as a job shows it its
own. It ends with an error if a good one is stopped or more than one in twenty bad ones is not. `--record` makes the
recorded ones anew; it needs mlxtend, as `lr_regret.py` does. Needs the `local` extra.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from divergence.generated import BAD, SOUND
from divergence.generated import trainings as generated_trainings
from divergence.recorded import record_all, store, stored

from gpuplan_job.divergence_rule import LossRule, block_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from divergence.recorded import Training

    Guard = Callable[[Training, bool], int | None]
    """Returns the step at which it stops a training, None where it lets it go; told whether chance is known."""

LEAST_STOPPED = 0.95
_LEARNT = 0.9
"""Final validation accuracy of a good training over the best that any training of its task reaches."""
_LEARNT_NOTHING = 0.16
"""Most of a bad one: of ten classes, with three standard errors of 360 samples."""
_VAL_SAMPLES = {"digits": 360, "digits-noisy": 360, "mnist": 1000}
_EPOCHS = 10
"""Of generated trainings, for the peers, which look once an epoch."""


@dataclass
class Row:
    """What became of the trainings of one kind."""

    total: int = 0
    stopped: list[float] = field(default_factory=list)
    """Shares of the training that were run when it was stopped."""


def ours(training: Training, known: bool) -> int | None:  # noqa: FBT001 - the signature of a guard
    """Return where the job's own guard stops a training: it looks at whole blocks, and at epochs."""
    rule = LossRule(training.total, training.epochs, training.chance if known else None)
    losses = training.losses if training.finished else [*training.losses, math.nan]
    size, seen = block_steps(training.total), 0
    per_epoch = training.total // training.epochs
    for step in range(1, training.total + 1):
        block = losses[seen:step] if step % size == 0 else []
        seen = step if step % size == 0 else seen
        if block and rule.add(block) is not None:
            return step
        epoch = step // per_epoch
        if known and step % per_epoch == 0 and epoch <= len(training.accuracies):
            mean = statistics.fmean(training.losses[step - per_epoch : step])
            accuracy, chance = training.accuracies[epoch - 1], training.chance_accuracy
            if rule.epoch(accuracy, _VAL_SAMPLES[training.name.partition("/")[0]], chance, mean) is not None:
                return step
    return None


def early_stopping(patience: int) -> Guard:
    """Return Lightning's EarlyStopping on the epochs' mean training loss, its threshold twice the first step's loss."""
    from pytorch_lightning.callbacks import EarlyStopping
    from torch import tensor

    def guard(training: Training, known: bool) -> int | None:  # noqa: FBT001 - as above
        del known
        if not training.losses:
            return training.total // training.epochs
        threshold = 2 * training.losses[0]
        stopping = EarlyStopping("loss", patience=patience, check_finite=True, divergence_threshold=threshold)
        per_epoch = training.total // training.epochs
        losses = training.losses if training.finished else [*training.losses, *[math.nan] * per_epoch]
        for end in range(per_epoch, len(losses) + 1, per_epoch):
            mean = math.fsum(losses[end - per_epoch : end]) / per_epoch
            if stopping._evaluate_stopping_criteria(tensor(mean))[0]:  # noqa: SLF001 - its rule has no public name
                return end
        return None

    return guard


def recorded() -> Iterator[tuple[str, Training]]:
    """Yield each recorded training with what became of it."""
    trainings = stored()
    best: dict[str, float] = {}
    for training in trainings:
        task = _task(training)
        best[task] = max(best.get(task, 0.0), *training.accuracies, 0.0)
    for training in trainings:
        accuracy = training.accuracies[-1] if training.accuracies else 0.0
        if not training.finished:
            yield "recorded, not finite", training
        elif accuracy <= _LEARNT_NOTHING:
            yield "recorded, learns nothing", training
        else:
            yield "recorded, good" if accuracy >= _LEARNT * best[_task(training)] else "recorded, poor", training


def _task(training: Training) -> str:
    """Return data and network of a training."""
    return "/".join(training.name.split("/")[:2])


def generated() -> Iterator[tuple[str, Training]]:
    """Yield each generated training."""
    from divergence.recorded import Training

    for shapes, group in ((SOUND, "sound"), (BAD, "bad")):
        for kind, chance, losses in generated_trainings(shapes, group):
            yield f"{kind}, {group}", Training(kind, 1.0, _EPOCHS, len(losses), losses, [], chance, 0.0)


def judged(
    cases: Iterable[tuple[str, Training]], guards: dict[str, Guard], *, known: bool
) -> dict[str, dict[str, Row]]:
    """Return a row for each kind and guard, kinds in the order of their first appearance."""
    found: dict[str, dict[str, Row]] = {}
    for kind, training in cases:
        rows = found.setdefault(kind, {name: Row() for name in guards})
        for name, guard in guards.items():
            step = guard(training, known)
            rows[name].total += 1
            if step is not None:
                rows[name].stopped.append(step / training.total)
    return found


def good(kind: str) -> bool:
    """Tell whether trainings of a kind must not be stopped."""
    return kind.endswith((", good", ", sound"))


def table(rows: dict[str, dict[str, Row]]) -> list[list[str]]:
    """Return stopped of all, and the median and 9-in-10 share of the training that was run by then."""
    body = []
    for kind, by_guard in rows.items():
        cells = []
        for row in by_guard.values():
            shares = sorted(row.stopped)
            late = shares[min(len(shares) - 1, int(0.9 * len(shares)))] if shares else 0.0
            when = f" at {statistics.median(shares):.0%} ({late:.0%})" if shares else ""
            cells.append(f"{len(row.stopped)} of {row.total}{when}")
        body.append([kind, *cells])
    return [["trainings", *next(iter(rows.values()))], *body]


def shown(cells: list[list[str]], *, markdown: bool) -> str:
    """Return a table as text."""
    if markdown:
        head, *body = [f"| {' | '.join(row)} |" for row in cells]
        return "\n".join([head, "|" + "---|" * len(cells[0]), *body])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def main() -> int:
    """Judge all trainings, print the tables, and return 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--record", action="store_true", help="train the recorded ones anew, an hour")
    options = parser.parse_args()
    if options.record:
        store(list(record_all()))
    guards: dict[str, Guard] = {
        "gpuplan": ours,
        "EarlyStopping, diverging": early_stopping(10**9),
        "EarlyStopping, patience 3": early_stopping(3),
    }
    failed = []
    for known in (True, False):
        rows = judged([*recorded(), *generated()], guards, known=known)
        print(f"\nLoss of chance {'known' if known else 'not known'}: stopped, at which share of the steps (9 of 10)\n")
        print(shown(table(rows), markdown=options.markdown))
        mine = {kind: by_guard["gpuplan"] for kind, by_guard in rows.items()}
        alarms = sum(len(row.stopped) for kind, row in mine.items() if good(kind))
        sound = sum(row.total for kind, row in mine.items() if good(kind))
        bad = {kind: row for kind, row in mine.items() if not good(kind) and not kind.endswith("poor")}
        stopped, total = sum(len(row.stopped) for row in bad.values()), sum(row.total for row in bad.values())
        print(f"\nfalse alarms: {alarms} of {sound}; bad ones stopped: {stopped} of {total} ({stopped / total:.1%})")
        if alarms or (known and stopped < LEAST_STOPPED * total):
            failed.append(known)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
