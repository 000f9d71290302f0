"""The first cause among what the ranks of a job left: by time, echoes aside, whoever wrote first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from gpuplan_job import first_cause
from gpuplan_job.contract import EXIT_CODES, Failure, FailureKind
from gpuplan_job.first_cause import RankStory, exit_code, find, oom_kills, stories
from gpuplan_job.rank import RankEnd

SIGKILL, SIGSEGV, SIGABRT, SIGTERM = -9, -11, -6, -15


def report(rank: int, kind: FailureKind, at: float, *, echo: bool = False) -> Failure:
    return Failure("run-1", "train", 1, kind, f"{kind} of {rank}", "do", rank=rank, at=at, echo=echo)


def end(rank: int, code: int, at: float, *, stopped: bool = False, lines: tuple[str, ...] = ()) -> RankEnd:
    return RankEnd(rank, code, at, stopped, list(lines))


def told(rank: int, kind: FailureKind, at: float, *, echo: bool = False) -> RankStory:
    return RankStory(rank, report(rank, kind, at, echo=echo), end(rank, 1, at + 0.1, lines=(f"said by {rank}",)))


def silent(rank: int, code: int, at: float, lines: tuple[str, ...] = ()) -> RankStory:
    return RankStory(rank, None, end(rank, code, at, lines=lines))


def stopped(rank: int, at: float) -> RankStory:
    return RankStory(rank, None, end(rank, SIGTERM, at, stopped=True))


def judge(tmp_path: Path, *found: RankStory, oom_killed: int = 0) -> Failure:
    failure = find(None, found, tmp_path, oom_killed)
    assert failure is not None
    return failure


def test_the_earliest_report_counts_with_the_lines_of_its_rank(tmp_path: Path) -> None:
    failure = judge(tmp_path, told(0, "data", 12.0), told(1, "user-code", 11.0), stopped(2, 12.5))
    assert (failure.kind, failure.rank, failure.exit_code) == ("user-code", 1, 1)
    assert failure.last_lines == ["said by 1"]


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [(SIGKILL, "killed", "SIGKILL"), (SIGSEGV, "crash", "SIGSEGV"), (SIGABRT, "crash", "SIGABRT")],
)
def test_a_rank_that_a_signal_ended_comes_before_the_echoes_of_its_end(
    tmp_path: Path, code: int, kind: FailureKind, name: str
) -> None:
    failure = judge(tmp_path, told(0, "communication", 10.0, echo=True), silent(1, code, 10.01), stopped(2, 11.0))
    assert (failure.kind, failure.rank, failure.signal) == (kind, 1, name)
    assert exit_code(failure) == 128 - code


def test_an_error_of_unknown_kind_just_before_a_kill_was_seen_is_its_echo(tmp_path: Path) -> None:
    assert judge(tmp_path, told(0, "internal", 10.0), silent(1, SIGKILL, 10.05)).rank == 1


def test_an_abort_after_a_report_is_an_echo_of_it(tmp_path: Path) -> None:
    assert judge(tmp_path, told(0, "user-code", 10.0), silent(1, SIGABRT, 10.05)).rank == 0


def test_a_rank_whose_watcher_is_gone_too_was_killed(tmp_path: Path) -> None:
    failure = judge(tmp_path, told(0, "communication", 10.0, echo=True), RankStory(1, None, None))
    assert (failure.kind, failure.rank) == ("killed", 1)


def test_what_torchrun_killed_in_the_end_is_not_the_cause(tmp_path: Path) -> None:
    assert judge(tmp_path, told(0, "data", 10.0), RankStory(1, None, None)).rank == 0


def test_where_there_are_only_echoes_the_earliest_counts_and_is_marked(tmp_path: Path) -> None:
    failure = judge(
        tmp_path, told(0, "communication", 10.2, echo=True), told(1, "communication", 10.1, echo=True), stopped(2, 11.0)
    )
    assert (failure.rank, failure.echo) == (1, True)


def test_a_kill_while_the_kernel_killed_for_memory_is_out_of_memory(tmp_path: Path) -> None:
    failure = judge(tmp_path, silent(1, SIGKILL, 10.0), oom_killed=1)
    assert (failure.kind, failure.signal) == ("out-of-memory", "SIGKILL")
    assert "memory ran out" in failure.message
    worker = judge(tmp_path, told(1, "killed", 10.0), oom_killed=1)
    assert worker.kind == "out-of-memory"


@pytest.mark.parametrize(
    ("thrown", "kind"),
    [
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", "stall"),
        ("[enforce fail at gloo/transport/tcp/pair.cc:451] op.preamble.length <= op.nbytes. 256 vs 28", "stall"),
        ("[PG ID 0 Rank 1] NCCL error: remote process exited or there was a network error", "communication"),
        ("an exception of somebody's own", "crash"),
    ],
)
def test_an_abort_is_explained_by_the_exception_that_caused_it(tmp_path: Path, thrown: str, kind: FailureKind) -> None:
    story = RankStory(1, None, replace(end(1, SIGABRT, 10.0), thrown=thrown))
    failure = judge(tmp_path, story, stopped(0, 10.5))
    assert (failure.kind, failure.rank, failure.signal) == (kind, 1, "SIGABRT")


def test_an_abort_for_want_of_a_peer_is_an_echo_of_the_peers_end(tmp_path: Path) -> None:
    aborted = RankStory(0, None, replace(end(0, SIGABRT, 9.0), thrown="NCCL error: remote process exited"))
    assert judge(tmp_path, aborted, silent(1, 3, 9.5)).rank == 1


def test_a_crash_names_the_line_that_was_running(tmp_path: Path) -> None:
    lines = (
        "Fatal Python error: Segmentation fault",
        'File "/home/ann/own/model.py", line 12 in forward',
        'File "/usr/lib/python3/site-packages/torch/nn/modules/module.py", line 1 in _call_impl',
        'File "/home/ann/own/run.py", line 3 in main',
    )
    failure = judge(tmp_path, silent(0, SIGSEGV, 10.0, lines))
    assert failure.where == "/home/ann/own/model.py:12 in forward"
    assert failure.where in failure.message


def test_a_process_that_leaves_without_an_error_is_named_with_its_code(tmp_path: Path) -> None:
    failure = judge(tmp_path, silent(1, 3, 10.0), stopped(0, 10.5))
    assert (failure.kind, failure.exit_code, "exit code 3" in failure.message) == ("crash", 3, True)


def test_a_rank_that_vanished_with_its_watcher_is_named_by_the_siblings_that_were_stopped(tmp_path: Path) -> None:
    failure = judge(tmp_path, RankStory(0, None, None), stopped(1, 10.5))
    assert (failure.kind, failure.rank) == ("killed", 0)


def test_what_is_not_told_by_any_rank_is_left_to_the_launcher(tmp_path: Path) -> None:
    assert find(None, [RankStory(0, None, None)], tmp_path, 0) is None


def test_stories_are_read_from_what_ranks_and_watchers_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    (folder / "1.failure.json").write_text(report(1, "data", 1.0).to_json())
    (folder / "0.end.json").write_text(end(0, 0, 2.0).to_json())
    (folder / "1.end.json").write_text("cut off")
    first, second = stories(tmp_path, range(2))
    assert (first.report, first.end, first.innocent) == (None, end(0, 0, 2.0), True)
    assert (second.report, second.end) == (report(1, "data", 1.0), None)


def test_every_kind_is_documented_with_its_exit_code() -> None:
    table = (Path(__file__).parents[2] / "docs" / "failures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (?:128 \+ signal, or )?(\d+) \|", table, re.MULTILINE)
    assert {kind: int(code) for kind, code in rows} == EXIT_CODES
    assert set(EXIT_CODES) == set(get_args(FailureKind))


def test_the_kernel_says_how_many_it_killed(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "vmstat").write_text("pgfault 12\noom_kill 3\noom_kill_disable 9\n")
    assert first_cause.oom_kills(tmp_path) == 3
