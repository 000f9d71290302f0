"""The batch search on devices that are functions: it ends, keeps its bound, and names what it should."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpuplan_job.batch_search import FASTER, MULTIPLE, Choice, Search, aligned, choose, run
from gpuplan_job.contract import BatchSearchSpec, BatchTrial
from gpuplan_job.document import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = BatchSearchSpec(largest=100_000, memory_share=0.8, world_size=1, accumulation=1, trial_seconds=60.0)
CAPACITY = 10.0


def device(
    fixed: float, per_sample: float, *, seconds: float = 0.001, peaks: bool = True
) -> Callable[[int], BatchTrial]:
    """Return a device of `CAPACITY` GiB on which the memory is a straight line in the batch."""

    def trial(batch: int) -> BatchTrial:
        peak = fixed + per_sample * batch
        if peak > CAPACITY:
            return BatchTrial(batch, "out-of-memory")
        return BatchTrial(batch, "ran", peak if peaks else None, seconds * batch, 1 / seconds)

    return trial


def searched(trial: Callable[[int], BatchTrial], start: int = 32, spec: BatchSearchSpec = SPEC) -> Search:
    search = Search(spec, start, CAPACITY)
    run(search, trial)
    return search


def largest_safe(fixed: float, per_sample: float, bound: int) -> int:
    return max(
        (b for b in {*range(1, 8), *range(8, bound + 1, 8)} if fixed + per_sample * b <= 8.0 and b <= bound), default=0
    )


@given(st.floats(0.1, 9.9), st.floats(0.0005, 4.0), st.integers(1, 5000), st.integers(1, 3000), st.booleans())
def test_every_search_ends_within_its_bound_and_never_tries_a_batch_twice(
    fixed: float,
    per_sample: float,
    start: int,
    bound: int,
    peaks: bool,  # noqa: FBT001 - drawn
) -> None:
    search = searched(device(fixed, per_sample, peaks=peaks), start, replace(SPEC, largest=bound))
    tried = [trial.batch for trial in search.trials]
    assert len(set(tried)) == len(tried) <= 40
    assert all(1 <= batch <= bound and batch == aligned(batch) for batch in tried)


@given(st.floats(0.1, 7.5), st.floats(0.0005, 0.5), st.integers(1, 5000), st.integers(1, 3000))
def test_the_largest_safe_batch_is_found_to_a_sixteenth(
    fixed: float, per_sample: float, start: int, bound: int
) -> None:
    expected = largest_safe(fixed, per_sample, bound)
    assume(expected)
    search = searched(device(fixed, per_sample), start, replace(SPEC, largest=bound))
    found = choose(search.trials, search.spec, CAPACITY)
    assert found is not None
    assert found.largest <= expected
    assert expected - found.largest <= max(MULTIPLE, found.largest // 16)


@given(st.floats(0.1, 9.0), st.floats(0.0005, 0.5), st.integers(1, 3000))
def test_without_peaks_four_fifths_of_the_largest_that_ran_are_safe(
    fixed: float, per_sample: float, start: int
) -> None:
    search = searched(device(fixed, per_sample, peaks=False), start)
    found = choose(search.trials, search.spec, CAPACITY)
    ran = [trial.batch for trial in search.trials if trial.outcome == "ran"]
    if found is None:
        assert max(ran, default=0) <= 1
    elif any(trial.outcome == "out-of-memory" for trial in search.trials):
        assert found.largest <= max(1, 0.8 * max(ran))
        assert found.largest in ran


def test_a_straight_line_is_found_in_fewer_tries_than_by_halving() -> None:
    search = searched(device(1.0, 0.0107))
    assert [trial.batch for trial in search.trials][:6] == [32, 64, 128, 256, 512, 1024]
    assert len(search.trials) == 8
    assert choose(search.trials, SPEC, CAPACITY) == Choice(648, 648, 648)


def test_the_data_bound_the_search() -> None:
    search = searched(device(1.0, 0.0001), spec=replace(SPEC, largest=100))
    assert [trial.batch for trial in search.trials] == [32, 64, 96]


def test_a_start_that_does_not_fit_is_halved_and_the_gap_closed_again() -> None:
    search = searched(device(1.0, 0.25), start=64)
    assert [trial.outcome for trial in search.trials][:2] == ["out-of-memory", "ran"]
    assert max(t.batch for t in search.trials if search.safe(t)) == 24


def test_below_eight_any_batch_is_one() -> None:
    search = searched(device(1.0, 1.3), start=32)
    assert max(t.batch for t in search.trials if search.safe(t)) == 5


def test_a_device_that_holds_no_sample_leaves_no_choice() -> None:
    search = searched(device(11.0, 0.1))
    assert choose(search.trials, SPEC, CAPACITY) is None
    assert search.trials[-1].batch == 1


def test_a_batch_whose_steps_would_not_fit_into_a_try_is_not_tried() -> None:
    search = searched(device(1.0, 0.0001, seconds=0.1), spec=replace(SPEC, trial_seconds=60.0))
    assert [trial.batch for trial in search.trials] == [32, 64]


def test_a_try_that_was_too_slow_ends_the_way_up() -> None:
    def trial(batch: int) -> BatchTrial:
        return BatchTrial(batch, "too-slow") if batch > 64 else BatchTrial(batch, "ran", 1.0, 0.001, batch / 0.001)

    assert [trial.batch for trial in searched(trial).trials] == [32, 64, 128]


def speeds(*pairs: tuple[int, float]) -> list[BatchTrial]:
    return [BatchTrial(batch, "ran", 1.0, batch / speed, speed) for batch, speed in pairs]


def test_the_largest_is_chosen_unless_a_smaller_one_is_clearly_faster() -> None:
    assert choose(speeds((32, 100), (64, 109), (128, 100)), SPEC, CAPACITY) == Choice(128, 128, 64)
    assert choose(speeds((32, 100), (64, 100 * FASTER), (128, 100)), SPEC, CAPACITY) == Choice(64, 128, 64)
    assert choose(speeds((32, 100), (64, 100)), SPEC, CAPACITY) == Choice(64, 64, 64), "of equals the larger"


@pytest.mark.parametrize(
    "wrong",
    [
        {"largest": 0},
        {"memory_share": 0.0},
        {"memory_share": 1.1},
        {"memory_share": float("nan")},
        {"trial_seconds": 0.0},
        {"memory_gib": -1.0},
        {"world_size": 0},
    ],
)
def test_a_search_that_can_find_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ContractError):
        replace(SPEC, **wrong)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    "wrong",
    [
        {"step_seconds": None},
        {"samples_per_second": -1.0},
        {"peak_gib": 0.0},
        {"batch": 0},
        {"outcome": "out-of-memory"},
    ],
)
def test_a_try_with_figures_it_cannot_have_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ContractError):
        replace(BatchTrial(8, "ran", 1.0, 0.1, 80.0), **wrong)  # type: ignore[arg-type] # wrong on purpose
