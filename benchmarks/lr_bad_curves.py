"""Range tests that hold no answer get no learning rate, and sound ones are not refused; beside three public finders.

    python benchmarks/lr_bad_curves.py
    python benchmarks/lr_bad_curves.py --markdown > benchmarks/results/lr-bad-curves-$(date -u +%F).md

Bad range tests of many kinds, generated from seeds and really run on the digits, are judged as the job judges its own,
with every rule. It ends with an error if one is passed on, or if more sound ones are refused than `MOST_REFUSED`. The
peers, where they are installed (see README.md), get the losses of the range tests of one sweep. Needs the `local`
extra.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from range_tests import peers
from range_tests.bad import bad_range_tests
from range_tests.sound import SMALL_FALL, sound_range_tests

from gpuplan_job import rules
from gpuplan_job.suggestion import suggest
from gpuplan_job.sweep_design import RULE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from range_tests.peers import Finder

    from gpuplan_job.contract import LrResult

    Losses = tuple[list[float], list[float]] | None
    Case = tuple[str, LrResult, Losses]
    """The kind, what the job recorded, and for a peer the learning rates and losses of the only sweep."""

MOST_REFUSED = {"generated": 0.05, "real": 0.10}
"""Largest share of sound range tests that may be refused by the default rule."""
METHOD = """\
A range test counts as passed on if any rule ({rules}) gets a learning rate from it. Verdicts are counted over range
tests and rules. The peers see the range tests of one sweep, uncut, and do as their packages do: the same smoothing,
stop and cut; shown is how many they answer with a number. Generated kinds are seeded, half of one sweep and half of
three; those marked real were run on the digits by the job's own code with small networks, SGD and AdamW."""


@dataclass
class Row:
    """What became of the range tests of one kind."""

    verdicts: Counter[str] = field(default_factory=Counter)
    total: int = 0
    passed: int = 0
    refused_by: Counter[str] = field(default_factory=Counter)
    """Range tests refused, by rule."""
    peers_total: int = 0
    peers_passed: Counter[str] = field(default_factory=Counter)

    def judge(self, result: LrResult, names: list[str]) -> None:
        """Count one range test."""
        answers = {name: suggest(result, name).verdict for name in names}
        self.verdicts.update(answers.values())
        self.total += 1
        self.passed += "ok" in answers.values()
        self.refused_by.update(name for name, verdict in answers.items() if verdict != "ok")


def judged(cases: Iterable[Case], finders: dict[str, Finder]) -> dict[str, Row]:
    """Return a row for each kind, in the order of their first appearance."""
    found: dict[str, Row] = {}
    names = rules.names()
    for kind, result, losses in cases:
        row = found.setdefault(kind, Row())
        row.judge(result, names)
        if losses is not None and finders:
            row.peers_total += 1
            row.peers_passed.update(name for name, finder in finders.items() if finder(*losses) is not None)
    return found


def generated_bad(per_kind: int, first_seed: int) -> Iterator[Case]:
    """Yield the generated bad range tests."""
    for test in bad_range_tests(per_kind, first_seed):
        yield test.kind, test.result(), (test.rates, test.sweeps[0]) if len(test.sweeps) == 1 else None


def real_cases(results: Iterable[tuple[str, LrResult]]) -> Iterator[Case]:
    """Yield each real range test twice: whole, and as it would be of its first sweep alone.

    A peer gets the recorded losses of that, with a NaN where the sweep met one.
    """
    from range_tests.real import first_run_only
    from range_tests.recorded import geometric

    for kind, result in results:
        first = result.curves[0]
        losses = [*first.losses, *([float("nan")] if first.stop_reason == "non-finite" else [])]
        yield kind, result, None
        rates = geometric(result.sweep.iterations, result.sweep.lr_min, result.sweep.lr_max)
        yield kind, first_run_only(result), (rates, losses)


def bad_table(rows: dict[str, Row], finders: dict[str, Finder], *, missing: list[str]) -> list[list[str]]:
    """Return the table of bad range tests, its head first and its sums last."""
    together = Row()
    for row in rows.values():
        together.verdicts.update(row.verdicts)
        together.total += row.total
        together.passed += row.passed
        together.peers_total += row.peers_total
        together.peers_passed.update(row.peers_passed)
    head = ["kind", "refused / all", "flat", "diverged", "noisy", "passed on", *finders, *missing]
    body = [
        [
            kind,
            f"{row.total - row.passed} / {row.total}",
            *(str(row.verdicts[verdict]) for verdict in ("flat", "diverged", "noisy")),
            str(row.passed),
            *(f"{row.peers_passed[name]} / {row.peers_total}" if row.peers_total else "-" for name in finders),
            *("not installed" for _ in missing),
        ]
        for kind, row in [*rows.items(), ("all", together)]
    ]
    return [head, *body]


def sound_table(rows: dict[str, Row], names: list[str]) -> list[list[str]]:
    """Return the table of sound range tests."""
    head = ["kind", "range tests", *(f"refused, {name}" for name in names)]
    body = [
        [kind, str(row.total), *(f"{row.refused_by[name] / row.total:.1%}" for name in names)]
        for kind, row in rows.items()
    ]
    return [head, *body]


def refused_share(rows: dict[str, Row]) -> float:
    """Return the share that the default rule refuses, those left out that it refuses by design."""
    counted = [row for kind, row in rows.items() if kind != SMALL_FALL]
    return sum(row.refused_by[RULE] for row in counted) / sum(row.total for row in counted)


def show(table: list[list[str]], *, markdown: bool) -> None:
    """Print a table."""
    if markdown:
        for number, row in enumerate(table):
            print(f"| {' | '.join(row)} |")
            if number == 0:
                print(f"|{' --- |' * len(row)}")
    else:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def main() -> int:
    """Judge, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--per-kind", type=int, default=30, help="generated range tests a kind and number of sweeps")
    parser.add_argument("--first-seed", type=int, default=0, help="the gate was fitted on seeds from 0 on: try others")
    parser.add_argument("--no-real", action="store_true", help="leave out the real ones, which take minutes")
    parser.add_argument("--no-peers", action="store_true", help="leave out the peers")
    parser.add_argument("--markdown", action="store_true", help="print a document for benchmarks/results")
    given = parser.parse_args()
    finders, missing = ({}, []) if given.no_peers else peers.finders()

    bad = judged(generated_bad(given.per_kind, given.first_seed), finders)
    sound = {"generated": judged(((t.kind, t.result(), None) for t in sound_range_tests(4 * given.per_kind)), {})}
    if not given.no_real:
        from range_tests import real

        bad |= judged(real_cases(real.bad_results()), finders)
        sound["real"] = judged(real_cases(real.sound_results()), {})

    names = rules.names()
    if given.markdown:
        print(f"# Range tests that hold no answer, {datetime.now(UTC).date()}\n")
        print(METHOD.format(rules=", ".join(names)) + "\n")
    show(bad_table(bad, finders, missing=missing), markdown=given.markdown)
    print("Sound range tests that are refused:\n")
    for rows in sound.values():
        show(sound_table(rows, names), markdown=given.markdown)
    problems = [f"{row.passed} of {row.total} passed on: {kind}" for kind, row in bad.items() if row.passed]
    for origin, rows in sound.items():
        share, most = refused_share(rows), MOST_REFUSED[origin]
        print(f"Of the {origin} ones the rule {RULE} refuses {share:.1%}; at most {most:.0%} may be.")
        if share > most:
            problems.append(f"{share:.1%} of the {origin} sound range tests are refused")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
