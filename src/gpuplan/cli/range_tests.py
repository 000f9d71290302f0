"""Range tests that this machine has the record of, for plans that take their learning rate from one."""

from __future__ import annotations

from gpuplan.cli.home import store
from gpuplan.core.errors import NoResultError
from gpuplan.planning.reuse import LrSource


def stored_range_test(run: str) -> LrSource:
    """Return the range test of a run that this machine has the record of.

    Raises:
        UsageError: there is no such run.
        NoResultError: it has none.
    """
    runs = store()
    run_id = runs.resolve(run)
    record = runs.record(run_id)
    if record.lr_result is None:
        reused = record.plan.lr.reused
        raise NoResultError(
            f"--lr-from {run_id}: it has no range test",
            why=f"its learning rate is from run {reused.run_id}" if reused else "its lr-find has not ended well",
            fix=f"--lr-from {reused.run_id}" if reused else f"gpuplan status {run_id}",
        )
    return LrSource(run_id=run_id, data=record.plan.data, result=record.lr_result)
