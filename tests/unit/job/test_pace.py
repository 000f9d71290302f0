"""Step times without warm-up, and progress about once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job.pace import Pace

if TYPE_CHECKING:
    from gpuplan_job.contract import Progress


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def paced(total: int) -> tuple[Pace, Clock, list[Progress]]:
    clock = Clock()
    seen: list[Progress] = []
    return Pace("lr-find", total, 32, clock, seen.append), clock, seen


def test_the_median_step_leaves_out_each_phases_first_steps() -> None:
    pace, clock, _ = paced(20)
    for phase in ("sweep 1 of 2", "sweep 2 of 2"):
        pace.begin(phase, 0)
        for seconds in (9.0, 5.0, 3.0, 0.5, 0.25, 0.5, 0.5):
            clock.now += seconds
            pace.stepped(0.1, 1.0)
    assert pace.step_seconds == 0.5
    assert pace.samples_per_second == 64.0


def test_the_wait_for_data_is_told_from_the_work() -> None:
    assert paced(20)[0].busy_seconds is None
    pace, clock, _ = paced(20)
    pace.begin("sweep 1 of 1", 0)
    for _ in range(5):
        clock.now += 2.0
        pace.arrived()
        clock.now += 0.5
        pace.stepped(0.1, 1.0)
    assert (pace.step_seconds, pace.busy_seconds) == (2.5, 0.5)


def test_with_warm_up_steps_only_those_are_what_there_is() -> None:
    pace, clock, _ = paced(20)
    assert pace.step_seconds == 0
    assert pace.samples_per_second == 0
    pace.begin("sweep 1 of 1", 0)
    clock.now += 2.0
    pace.stepped(0.1, 1.0)
    assert pace.step_seconds == 2.0


def test_progress_comes_about_every_second_and_at_the_end() -> None:
    pace, clock, seen = paced(40)
    pace.begin("sweep 1 of 1", 0)
    for _ in range(40):
        clock.now += 0.25
        pace.stepped(0.1, 1.5)
    assert [progress.done for progress in seen] == [0, *range(4, 41, 4)]
    assert seen[-1].phase == "sweep 1 of 1"
    assert seen[-1].total == 40
    assert seen[-1].values == pytest.approx({"loss": 1.5, "learning_rate": 0.1, "samples_per_second": 128.0})


def test_a_phase_counts_on_from_where_the_one_before_was_to_end() -> None:
    pace, clock, seen = paced(200)
    pace.begin("sweep 1 of 2", 0)
    clock.now += 5
    pace.begin("sweep 2 of 2", 100)
    clock.now += 5
    pace.stepped(0.1, 1.0)
    assert [progress.done for progress in seen] == [0, 100, 101]


def test_a_loss_that_is_not_finite_stays_out_of_the_progress() -> None:
    pace, clock, seen = paced(1)
    pace.begin("sweep 1 of 1", 0)
    clock.now += 1
    pace.stepped(0.1, float("nan"))
    assert "loss" not in seen[-1].values
    assert seen[-1].to_line()


def test_a_step_that_was_not_taken_is_no_progress_and_not_timed() -> None:
    pace, clock, seen = paced(4)
    pace.begin("sweep 1 of 1", 0)
    for seconds, taken in ((1.0, True), (1.0, True), (9.0, False), (9.0, False), (2.0, True), (2.0, True)):
        clock.now += seconds
        pace.stepped(0.1, 1.0, taken=taken)
    assert [progress.done for progress in seen] == [0, 1, 2, 2, 2, 3, 4]
    assert pace.step_seconds == 2.0


@given(st.lists(st.integers(0, 12) | st.booleans(), max_size=40))
def test_progress_never_goes_back_nor_beyond_its_total(moves: list[int | bool]) -> None:
    pace, clock, seen = paced(10)
    for move in moves:
        clock.now += 2
        if isinstance(move, bool):
            pace.stepped(0.1, 1.0, taken=move)
        else:
            pace.begin("a phase", move)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert all(0 <= count <= 10 for count in done)
