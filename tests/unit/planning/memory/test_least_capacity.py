"""The least capacity is one above which a sequence always fits, not the bottom of a lucky gap."""

from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.memory.allocator import MIB, Step, least_capacity, replay


@st.composite
def sequences(draw: st.DrawFn) -> list[Step]:
    """Blocks of 1 to 64 MiB made and freed at random, each freed once at the most."""
    steps: list[Step] = []
    live: list[int] = []
    for number in range(draw(st.integers(1, 30))):
        frees = draw(st.booleans())
        if live and frees:
            steps.append((live.pop(draw(st.integers(0, len(live) - 1))), 0))
        steps.append((number, draw(st.integers(1, 64)) * MIB))
        live.append(number)
    return steps


@given(sequences())
def test_a_sequence_fits_in_its_least_capacity(steps: list[Step]) -> None:
    assert replay(steps, least_capacity(steps)).fits


@given(sequences())
def test_the_least_capacity_lies_between_what_is_in_use_and_what_is_reserved_without_a_bound(steps: list[Step]) -> None:
    free = replay(steps)
    assert free.allocated <= least_capacity(steps) <= free.reserved


@given(sequences(), st.floats(0, 1))
def test_whatever_lies_between_a_replay_and_its_bound_has_the_same_course(steps: list[Step], share: float) -> None:
    free = replay(steps)
    bound = free.allocated + int(share * (free.reserved - free.allocated))
    found = replay(steps, bound)
    if found.fits:
        assert replay(steps, found.reserved) == found


@given(sequences())
def test_no_looked_at_capacity_above_the_least_runs_out(steps: list[Step]) -> None:
    least, top = least_capacity(steps, tolerance=0.001), replay(steps).reserved
    capacity = top
    while capacity > least:
        found = replay(steps, capacity)
        assert found.fits
        capacity = min(found.reserved - 1, int(capacity * 0.999))


@given(sequences(), st.integers(0, 2000))
def test_whether_it_fits_can_be_told_without_searching_below_what_there_is(steps: list[Step], mebibytes: int) -> None:
    there_is = mebibytes * MIB
    quick = least_capacity(steps, above=there_is)
    assert replay(steps, quick).fits
    if quick <= there_is:
        assert replay(steps, there_is).fits
    else:
        assert quick <= replay(steps).reserved
