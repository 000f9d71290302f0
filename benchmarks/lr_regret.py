"""What a suggested learning rate costs: regret beside three public finders, transfer to N GPUs, drift with the sweep.

`python benchmarks/lr_regret.py` needs torch and mlxtend; torch-lr-finder, Lightning and fastai are run where they are
installed (benchmarks/README.md). Regret is the final validation loss at a learning rate over the best of a sweep, less
one; the sweeps are `data/lr_truth.csv`. Rules are judged with constants that were fitted on the other tasks. Ends with
an error if a claim in `CLAIMS` fails.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from typing import TYPE_CHECKING

from lr import measured, readings, report, truth
from lr.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    A = TypeVar("A")
    B = TypeVar("B")


def main() -> int:
    """Measure what was asked for and print the figures; return 1 if a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure-truth", action="store_true", help="train all sweeps anew: over an hour on 2 cores")
    parser.add_argument("--measure-sweeps", action="store_true", help="run range tests of all lengths anew: minutes")
    parser.add_argument("--no-peers", action="store_true", help="leave the other packages out")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains this")
    options = parser.parse_args()
    tasks = [task for task in TASKS if options.tasks in task.name]
    if options.measure_truth:
        _measure_truth()
    if options.measure_sweeps:
        readings.write(one for found in _each(measured.all_sweeps, TASKS) for one in found)
    started = time.monotonic()
    found = _each(measured.with_peers if not options.no_peers else measured.without_peers, tasks)
    print(f"# Regret of a suggested learning rate, {datetime.now(UTC):%Y-%m-%d}\n")
    print(
        f"torch {version('torch')}, {os.cpu_count()} CPU cores, {len(tasks)} tasks, "
        f"{statistics.fmean(len(one.finders) for one in found):.0f} independent range tests each; "
        f"measured in {(time.monotonic() - started) / 60:.0f} min.\n"
    )
    return report.show(found)


def _measure_truth() -> None:
    with truth.FILE.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, ["task", "gpus", "fixed", "point", "seed", "loss"], lineterminator="\n")
        writer.writeheader()
        for rows in _each(measured.truth_of, truth.units()):
            writer.writerows(rows)


def _each(work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Do the work on every item, one process a core, each with one thread: small networks gain nothing by more."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(work, items))


if __name__ == "__main__":
    sys.exit(main())
