from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.errors import ExitCode
from gpuplan.engine.watched import WatchedRun, WatchedStep
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.watch_text import change, ending, screen, summary, watch_document

if TYPE_CHECKING:
    from gpuplan.reports.layout import Block

WAITING = WatchedStep("train", "waiting")
TRAINING = WatchedStep("lr-find", "running", 1, "fake://digits-1-lr-find-1", "Training", open=True)
RUN = WatchedRun("digits-1", "g5.12xlarge", "sagemaker", "running", None, (TRAINING, WAITING))
DONE = replace(RUN, run_id="digits-2", state="succeeded", exit_code=ExitCode.OK, goes_on=False)
BROKEN = replace(RUN, run_id="digits-3", state="failed", exit_code=ExitCode.JOB_FAILED, goes_on=False)
LEFT = replace(RUN, run_id="digits-4", goes_on=False)
PLANNED = replace(RUN, run_id="digits-5", state="planned", steps=(WatchedStep("lr-find", "waiting"), WAITING))


def many(count: int) -> list[WatchedRun]:
    return [replace(RUN, run_id=f"digits-{number}", goes_on=number % 3 > 0) for number in range(count)]


def rows(blocks: list[Block]) -> list[str]:
    return [row[0] for block in blocks if isinstance(block, Table) for row in block.rows]


def lines(blocks: list[Block]) -> int:
    """Return the height on a terminal: a heading a table, a blank line between blocks."""
    heights = [len(b.rows) + 1 if isinstance(b, Table) else len(b.items) if isinstance(b, Facts) else 1 for b in blocks]
    return sum(heights) + len(blocks) - 1


def test_a_run_in_one_line() -> None:
    assert change(RUN) == "digits-1  running  lr-find: running (Training)"
    assert change(DONE) == "digits-2  succeeded"
    assert change(BROKEN) == "digits-3  failed, exit 7"
    assert change(LEFT) == "digits-4  running, not driven here  lr-find: running (Training)"
    assert change(PLANNED) == "digits-5  planned"


def test_the_line_names_the_step_that_was_begun_last_and_a_second_attempt() -> None:
    train = WatchedStep("train", "starting", 2, "fake://x", "Starting", open=True)
    found = replace(TRAINING, state="succeeded", detail="", open=False)
    assert change(replace(RUN, steps=(found, train))) == "digits-1  running  train (attempt 2): starting (Starting)"


def test_the_line_changes_with_the_services_word() -> None:
    uploading = replace(TRAINING, detail="Uploading")
    assert change(RUN) != change(replace(RUN, steps=(uploading, WAITING)))


def test_the_summary_counts_jobs_of_runs_that_go_on_and_ends_of_the_others() -> None:
    assert summary([RUN, RUN, PLANNED, DONE, BROKEN]) == ("5 runs: 2 running, 1 planned, 1 succeeded, 1 failed, exit 7")
    assert summary([DONE]) == "1 run: 1 succeeded"
    assert summary([]) == "no open runs"


def test_a_screen_that_is_large_enough_shows_all_in_their_order() -> None:
    runs = many(10)
    assert rows(screen(runs, 50, [])) == [run.run_id for run in runs]


def test_a_screen_that_is_too_small_shows_what_goes_on_and_changed_last_and_says_how_many_are_left_out() -> None:
    runs = many(10)
    blocks = screen(runs, 8, ["digits-0", "digits-8", "digits-2", "digits-5", "digits-1"])
    assert rows(blocks) == ["digits-2", "digits-5", "digits-8"]
    assert blocks[-1] == Line("and 7 more")


@given(count=st.integers(0, 60), height=st.integers(8, 80))
def test_a_screen_fits_and_accounts_for_every_run(count: int, height: int) -> None:
    blocks = screen(many(count), height, [])
    assert lines(blocks) <= height
    last = blocks[-1]
    left_out = int(last.text.split()[1]) if isinstance(last, Line) and last.text.startswith("and ") else 0
    assert len(rows(blocks)) + left_out == count


def test_the_ending_says_what_to_do_about_runs_that_need_it() -> None:
    blocks = ending([RUN, DONE, BROKEN, LEFT])
    assert rows(blocks) == ["digits-1", "digits-2", "digits-3", "digits-4"]
    assert blocks[-1] == Facts((("next", "gpuplan status digits-3"), ("next", "gpuplan resume digits-4")))


def test_without_runs_the_ending_says_so() -> None:
    assert ending([])[0] == Line("no open runs")


def test_the_document_is_json_and_says_unknown_where_nothing_is_known() -> None:
    document = json.loads(json.dumps(watch_document([RUN, BROKEN])))
    assert document["schema"] == "gpuplan.watch/1"
    first, second = document["runs"]
    assert (first["run_id"], first["state"], first["goes_on"]) == ("digits-1", "running", True)
    assert "unknown" in first["exit_code"]
    assert second["exit_code"] == 7
    assert first["steps"][0] == {
        "name": "lr-find",
        "state": "running",
        "attempt": 1,
        "handle": "fake://digits-1-lr-find-1",
        "detail": "Training",
    }
    assert "unknown" in first["steps"][1]["handle"]
