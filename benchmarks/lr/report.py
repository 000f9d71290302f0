"""Prints the tables of `lr_regret.py` and judges its claims. Measures nothing."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpuplan_job import transfer
from gpuplan_job.curve import smooth
from gpuplan_job.decision import decide
from gpuplan_job.rules.base import Law
from gpuplan_job.suggestion import NoSuggestion, suggest
from gpuplan_job.sweep_design import POLICIES
from lr import peers, readings, truth
from lr.fitting import LEAST_ITERATIONS, RULES, fit, laws, pick
from lr.measured import CHECKED_GPUS, DEFAULT_POLICY, DEFAULT_RULE, LONGER, Found, target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpuplan_job.contract import LrResult
    from lr.tasks import Task

    Held = dict[tuple[str, str], Law]
    """Laws by rule and task."""

_NEAR = 0.1
_WORST = 10.0
"""A diverged training's regret, and the most that any counts."""
CLAIMS = {
    "1 GPU: mean regret": 0.05,
    "1 GPU: worst regret": 0.25,
    "1 GPU: share over 10 %": 0.10,
    "4 GPUs: mean regret": 0.04,
    "4 GPUs: worst regret": 0.25,
    "8 GPUs: mean regret": 0.08,
    "8 GPUs: worst regret": 0.25,
    "drift: median factor": 1.5,
}


@dataclass
class Row:
    """The regrets of one method."""

    name: str
    regrets: list[float]
    refused: int = 0

    @property
    def mean(self) -> float:
        """Mean regret."""
        return statistics.fmean(self.regrets)

    @property
    def worst(self) -> float:
        """Largest regret."""
        return max(self.regrets)

    @property
    def p90(self) -> float:
        """The regret that nine in ten do not pass."""
        return sorted(self.regrets)[math.ceil(0.9 * len(self.regrets)) - 1]

    @property
    def within(self) -> float:
        """Share within 10 % of the best."""
        return sum(regret <= _NEAR for regret in self.regrets) / len(self.regrets)

    def line(self) -> str:
        """Return the row of a Markdown table."""
        refused = f"{self.refused}" if self.refused else ""
        return f"| {self.name} | {self.mean:.3f} | {self.p90:.2f} | {self.worst:.2f} | {self.within:.0%} | {refused} |"


_HEAD = "| {} | mean | p90 | worst | within 10 % | no number |\n|---|---|---|---|---|---|"


def show(found: Sequence[Found]) -> int:
    """Print all tables; return 1 if a claim fails."""
    held_out = _constants([one.task for one in found])
    got: dict[str, float] = {}
    print("## One GPU\n\nThree sweeps a range test; laws fitted without the task's data and network.\n")
    print(_HEAD.format("finder"))
    for row in _one_gpu(found, held_out, got):
        print(row.line())
    run = [len(curve.losses) / one.sweep.iterations for task in found for one in task.finders for curve in one.curves]
    print(f"\nSweeps ended after {statistics.fmean(run):.0%} of their steps on average: the rest was not paid for.")
    print("\n## To N GPUs, fixed epochs\n\nThe range test's learning rate, carried over by each policy.\n")
    for gpus in (2, *CHECKED_GPUS):
        known = [one for one in found if (one.task.name, gpus, "epochs") in truth.landscapes()]
        if not known:
            continue
        print(_HEAD.format(f"{gpus} GPUs, {len(known)} tasks"))
        for row in _many_gpus(known, held_out, gpus, got):
            print(row.line())
        print()
    _print_fixed_steps(found, held_out)
    _print_trained(found)
    _print_drift(found, held_out, got)
    _print_constants()
    print("\n## Claims\n")
    failed = 0
    for name, most in CLAIMS.items():
        if name in got:
            failed += got[name] > most
            print(f"- {name}: {got[name]:.3f} (at most {most:g}){'' if got[name] <= most else '  **missed**'}")
    return 1 if failed else 0


def _constants(tasks: Sequence[Task]) -> Held:
    """Return each rule's constants for a task, fitted on the tasks of its optimizer with other data or network."""
    known = _one_gpu_truth()
    rows = _fitted_on(known)
    return {
        (rule, task.name): fit(
            [one for one in rows if one.group != task.group and one.optimizer == task.optimizer], rule, known
        )
        for rule in RULES
        for task in tasks
    }


def _fitted_on(known: dict[str, truth.Landscape]) -> list[readings.Reading]:
    return [one for one in readings.stored() if one.task in known and one.iterations >= LEAST_ITERATIONS]


def _one_gpu_truth() -> dict[str, truth.Landscape]:
    return {
        task: landscape
        for (task, gpus, fixed), landscape in truth.landscapes().items()
        if (gpus, fixed) == (1, "epochs")
    }


def _pick(one: Found, result: LrResult, law: Law, rule: str, runs: int) -> float | None:
    """Return what a rule with these constants makes of the first `runs` sweeps; None where the gate refuses them."""
    kept = replace(result, curves=result.curves[:runs], sweep=replace(result.sweep, runs=runs))
    if isinstance(suggest(kept, rule), NoSuggestion):
        return None
    reading = readings.reading(one.task, result.sweep.iterations, smooth(kept.curves))
    return pick(law, reading, RULES[rule])


def _regret(one: Found, gpus: int, learning_rate: float, fixed: str = "epochs") -> float:
    return min(truth.landscapes()[one.task.name, gpus, fixed].regret(learning_rate), _WORST)


def _row(name: str, found: Sequence[Found], picks: Sequence[Sequence[float | None]], gpus: int = 1) -> Row:
    regrets, refused = [], 0
    for one, rates in zip(found, picks, strict=True):
        for rate in rates:
            if peers.usable(rate) and rate is not None:
                regrets.append(_regret(one, gpus, rate))
            else:
                refused += 1
    return Row(name, regrets, refused)


def _one_gpu(found: Sequence[Found], held_out: Held, got: dict[str, float]) -> Iterator[Row]:
    for rule in RULES:
        for runs in (3, 1) if rule == DEFAULT_RULE else (3,):
            picks = [
                [_pick(one, result, held_out[rule, one.task.name], rule, runs) for result in one.finders]
                for one in found
            ]
            name = f"gpuplan {rule}" + (" (the default)" if rule == DEFAULT_RULE and runs > 1 else "")
            row = _row(name + (", 1 sweep" if runs == 1 else ""), found, picks)
            if rule == DEFAULT_RULE and runs > 1:
                got |= {
                    "1 GPU: mean regret": row.mean,
                    "1 GPU: worst regret": row.worst,
                    "1 GPU: share over 10 %": 1 - row.within,
                }
            yield row
    for name in found[0].peers:
        yield _row(name, found, [one.peers[name] for one in found])


def _many_gpus(found: Sequence[Found], held_out: Held, gpus: int, got: dict[str, float]) -> Iterator[Row]:
    for policy in transfer.names():
        if policy == "accumulate" and gpus not in CHECKED_GPUS:
            continue
        tests = 1 if policy == "accumulate" else len(found[0].finders)
        picks = [
            [_carried(one, number, held_out[DEFAULT_RULE, one.task.name], gpus, policy) for number in range(tests)]
            for one in found
        ]
        row = _row(policy + (" (the default)" if policy == DEFAULT_POLICY else ""), found, picks, gpus)
        if policy == DEFAULT_POLICY:
            got |= {f"{gpus} GPUs: mean regret": row.mean, f"{gpus} GPUs: worst regret": row.worst}
        yield row


def _carried(one: Found, number: int, law: Law, gpus: int, policy: str) -> float | None:
    """Return the training's learning rate by a policy, from the pick with held-out constants."""
    result = one.finders[number]
    picked = _pick(one, result, law, DEFAULT_RULE, len(result.curves))
    check = one.checks.get(gpus) if number == 0 else None
    decision = decide(replace(result, check=check), target(one.task, gpus, DEFAULT_RULE, policy))
    if picked is None or decision.multiplier is None:
        return None
    if policy == "accumulate" and check is not None:
        at = readings.reading(one.task, check.at.iterations, smooth(check.curves))
        return pick(law, replace(at, reference_steps=check.at.reference_steps), RULES[DEFAULT_RULE])
    return picked * decision.multiplier


def _print_fixed_steps(found: Sequence[Found], held_out: Held) -> None:
    """Print each policy's regret where four GPUs take as many steps as one, and so four times the epochs."""
    known = [one for one in found if (one.task.name, 4, "steps") in truth.landscapes()]
    if not known:
        return
    print(_HEAD.format(f"4 GPUs, fixed steps, {len(known)} tasks"))
    for policy in transfer.names():
        if policy == "accumulate":
            continue
        regrets = []
        for one in known:
            for number in range(len(one.finders)):
                rate = _carried(one, number, held_out[DEFAULT_RULE, one.task.name], 4, policy)
                regrets += [] if rate is None else [_regret(one, 4, rate, "steps")]
        print(Row(policy + (" (the default)" if policy == POLICIES["steps"] else ""), regrets).line())
    print()


def _print_trained(found: Sequence[Found]) -> None:
    rows = defaultdict(list)
    for one in found:
        for gpus, loss in one.trained.items():
            landscape = truth.landscapes()[one.task.name, gpus, "epochs"]
            rows[gpus].append(min(loss / landscape.best - 1, _WORST))
    if rows:
        print("Trained at the very learning rate that gpuplan decides (its own constants, first range test):\n")
        print(_HEAD.format("GPUs"))
        for gpus, regrets in rows.items():
            print(Row(f"{gpus}", regrets).line())


def _print_drift(found: Sequence[Found], held_out: Held, got: dict[str, float]) -> None:
    print(f"\n## Drift of the suggestion when a sweep is {LONGER} x as long\n")
    print("| rule | median factor | p90 | worst |\n|---|---|---|---|")
    for name, rule, fixed in (
        *((f"gpuplan {rule}", rule, None) for rule in RULES),
        ("minimum / 10, not normalised", "minimum", Law(10.0, 0.0, 0.0)),
    ):
        factors = []
        for one in found:
            law = fixed or held_out[rule, one.task.name]
            a, b = (_pick(one, result, law, rule, 3) for result in (one.finders[0], one.longer))
            if a and b:
                factors.append(max(a / b, b / a))
        row = Row(name, factors)
        if rule == DEFAULT_RULE:
            got["drift: median factor"] = statistics.median(factors)
        print(f"| {name} | {statistics.median(factors):.2f} | {row.p90:.2f} | {row.worst:.2f} |")


def _print_constants() -> None:
    """Print the constants fitted on all tasks beside those that the rules hold."""
    known = _one_gpu_truth()
    rows = _fitted_on(known)
    print("\n## Laws fitted on all tasks: divisor, power of the training's length\n")
    print("| rule | SGD | held by the rule | AdamW | held by the rule |\n|---|---|---|---|---|")
    for rule in RULES:
        held = laws(rule)
        cells = []
        for optimizer, law in (("sgd", held.sgd), ("adamw", held.adaptive)):
            found = fit([one for one in rows if one.optimizer == optimizer], rule, known)
            cells += [f"{one.divisor:.3g}, {one.training:.2f}" for one in (found, law)]
        print(f"| {rule} | {' | '.join(cells)} |")
