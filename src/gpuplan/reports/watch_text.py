"""Many watched runs as people and as scripts read them: a line a change, a screen that fits, the end of the watch.

Called by `gpuplan watch --all`. It returns text and blocks and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from gpuplan.core.errors import ExitCode
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import usd
from gpuplan.reports.layout import Block, Facts, Line, Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from gpuplan.engine.watched import WatchedRun, WatchedStep

_COLUMNS = ("run", "instance", "backend", "state", "job", "so far")
_FURNITURE_LINES = 5
"""Lines of a screen that hold no run: the summary, the table's heading, blank lines, the count of what is left out."""


def change(run: WatchedRun) -> str:
    """Return a run in one line, without times: it differs from the one before exactly if there is something to say."""
    return f"{run.run_id}  {_state(run)}" + (
        f"  {_job(run.step)}" if run.exit_code is None and run.step.attempt else ""
    )


def summary(runs: Sequence[WatchedRun]) -> str:
    """Return how many runs are in which state, the commonest first."""
    if not runs:
        return "no open runs"
    counts = Counter(run.step.state if run.goes_on and run.step.attempt else _state(run) for run in runs)
    told = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {told}"


def screen(runs: Sequence[WatchedRun], lines: int, recent: Sequence[str]) -> list[Block]:
    """Return what fits into that many lines of a terminal.

    Where not all runs fit, those that go on are preferred, then those whose ids are first in `recent`; how many are
    left out is said.
    """
    room = max(1, lines - _FURNITURE_LINES)
    shown = {run.run_id for run in runs}
    if len(runs) > room:
        rank = {run_id: place for place, run_id in enumerate(recent)}
        best = sorted(runs, key=lambda run: (not run.goes_on, rank.get(run.run_id, len(rank))))
        shown = {run.run_id for run in best[:room]}
    blocks: list[Block] = [Line(summary(runs))]
    if shown:
        blocks.append(Table(_COLUMNS, tuple(_row(run) for run in runs if run.run_id in shown)))
    if len(shown) < len(runs):
        blocks.append(Line(f"and {len(runs) - len(shown)} more"))
    return blocks


def ending(runs: Sequence[WatchedRun]) -> list[Block]:
    """Return all followed runs as they stand when the watch ends, and what to do about them."""
    if not runs:
        return [Line(summary(runs)), Facts((("next", "gpuplan list"),))]
    facts = tuple(("next", command) for run in runs if (command := _next(run)))
    return [Line(summary(runs)), Table(_COLUMNS, tuple(_row(run) for run in runs)), Facts(facts)]


def watch_document(runs: Sequence[WatchedRun]) -> dict[str, Any]:
    """Return the `gpuplan.watch/1` document."""
    return {"schema": "gpuplan.watch/1", "runs": [_run(run) for run in runs]}


def _run(run: WatchedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "instance": run.instance,
        "backend": run.backend,
        "state": run.state,
        "exit_code": {"unknown": "the run is not over"} if run.exit_code is None else int(run.exit_code),
        "goes_on": run.goes_on,
        "cost_so_far_usd": _amount(run.so_far_usd),
        "steps": [
            {
                "name": step.name,
                "state": step.state,
                "attempt": step.attempt,
                "handle": step.handle or {"unknown": "not started"},
                "detail": step.detail,
            }
            for step in run.steps
        ],
    }


def _row(run: WatchedRun) -> tuple[str, ...]:
    job = _job(run.step) if run.step.attempt else ""
    return run.run_id, run.instance, run.backend, _state(run), job, _dollars(run.so_far_usd)


def _dollars(amount: Decimal | Unknown | None) -> str:
    return "" if amount is None else "unknown" if isinstance(amount, Unknown) else usd(amount)


def _amount(amount: Decimal | Unknown | None) -> object:
    if amount is None:
        return {"unknown": "nothing is billed there"}
    return {"unknown": amount.unknown} if isinstance(amount, Unknown) else f"{amount:.4f}"


def _state(run: WatchedRun) -> str:
    """Return the run's state, with what a person must know besides."""
    if run.exit_code not in {None, ExitCode.OK, ExitCode.INTERRUPTED}:
        return f"{run.state}, exit {run.exit_code:d}"
    return run.state if run.goes_on or run.exit_code is not None else f"{run.state}, not driven here"


def _job(step: WatchedStep) -> str:
    again = f" (attempt {step.attempt})" if step.attempt > 1 else ""
    detail = f" ({step.detail})" if step.detail else ""
    return f"{step.name}{again}: {step.state}{detail}"


def _next(run: WatchedRun) -> str:
    """Return the command for a run that needs one."""
    if run.goes_on:
        return ""
    if run.exit_code is None:
        return f"gpuplan resume {run.run_id}"
    return "" if run.exit_code is ExitCode.OK else f"gpuplan status {run.run_id}"
