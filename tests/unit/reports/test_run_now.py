"""What open jobs do now: in words with their time and the money so far, and as a document without guesses."""

from __future__ import annotations

from decimal import Decimal

from gpuplan.core.frozen import Unknown
from gpuplan.reports.run_now import JobNow, RunNow, now_document, now_facts

RUNNING = JobNow("train", "Training", 5400.04, billing=True)
WAITING = JobNow("lr-find", "Pending", 600, billing=False)


def test_a_job_that_is_billed_runs_and_one_that_is_not_waits() -> None:
    facts = list(now_facts(RunNow((WAITING, RUNNING), Decimal("10.635"))))
    assert facts == [
        ("now", "lr-find: Pending, waiting for 10 min"),
        ("now", "train: Training, running for 1.5 h"),
        ("so far", "about $10.64"),
    ]


def test_nothing_spent_is_nothing_said_and_an_unknown_price_is_said() -> None:
    assert [label for label, _ in now_facts(RunNow((WAITING,), Decimal(0)))] == ["now"]
    unknown = RunNow((), Unknown(unknown="no price"))
    assert list(now_facts(unknown)) == [("so far", "unknown: no price")]
    assert now_document(unknown) == {"jobs": [], "cost_so_far_usd": {"unknown": "no price"}}


def test_scripts_read_seconds_and_decimal_dollars() -> None:
    assert now_document(RunNow((RUNNING,), Decimal("10.63499"))) == {
        "jobs": [{"step": "train", "phase": "Training", "seconds": 5400.0}],
        "cost_so_far_usd": "10.6350",
    }


def test_a_job_that_is_over_is_not_said_to_wait() -> None:
    now = RunNow((JobNow("lr-find", "Completed", 7.0, billing=False, ended=True),), Decimal(0))
    assert list(now_facts(now)) == [("now", "lr-find: Completed, not yet recorded: gpuplan resume does")]
