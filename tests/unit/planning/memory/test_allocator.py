"""The allocator's model: its rules one by one, and laws that hold for any sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.memory.allocator import MIB, Replay, Step, least_capacity, replay, rounded, segment_size

KIB = 1024


@st.composite
def sequences(draw: st.DrawFn) -> list[Step]:
    """Allocations of all classes of size, each freed at some later moment or never."""
    steps: list[Step] = []
    live: list[int] = []
    for number in range(draw(st.integers(1, 40))):
        steps.append((number, draw(st.integers(1, MIB) | st.integers(MIB, 64 * MIB))))
        live.append(number)
        for _ in range(draw(st.integers(0, 2))):
            if live:
                freed = draw(st.integers(0, len(live) - 1))
                steps.append((live.pop(freed), 0))
    return steps


def test_a_size_is_rounded_up_to_512_bytes() -> None:
    assert [rounded(size) for size in (1, 512, 513, 4000)] == [512, 512, 1024, 4096]


def test_segments_are_2_mib_then_20_then_multiples_of_2() -> None:
    sizes = (1, MIB, MIB + 512, 10 * MIB - 512, 10 * MIB, 11 * MIB + 512)
    assert [segment_size(size) // MIB for size in sizes] == [2, 2, 20, 20, 10, 12]


def test_small_blocks_share_a_segment() -> None:
    assert replay([(i, 512 * KIB) for i in range(4)]) == Replay(fits=True, reserved=2 * MIB, allocated=2 * MIB)


def test_a_large_block_is_not_split_for_less_than_a_mebibyte() -> None:
    first = [(0, 12 * MIB), (0, 0), (1, 11 * MIB + 512 * KIB), (2, 512 * KIB)]
    assert replay(first).reserved == 14 * MIB
    assert replay(first).allocated == 12 * MIB + 512 * KIB, "the whole block counts as in use"


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    made = [(0, 40 * MIB), (1, 20 * MIB), (0, 0), (1, 0)]
    assert replay([*made, (2, 20 * MIB), (3, 40 * MIB)]).reserved == 60 * MIB


def test_neighbours_that_are_free_become_one_block_again() -> None:
    halves = [(0, 40 * MIB), (0, 0), (1, 20 * MIB), (2, 20 * MIB), (1, 0), (2, 0)]
    assert replay([*halves, (3, 40 * MIB)]).reserved == 40 * MIB


def test_cached_segments_are_given_back_before_an_allocation_fails() -> None:
    steps = [(0, 30 * MIB), (0, 0), (1, 40 * MIB)]
    assert replay(steps).reserved == 70 * MIB
    assert replay(steps, 40 * MIB) == Replay(fits=True, reserved=40 * MIB, allocated=40 * MIB)
    assert not replay(steps, 39 * MIB).fits


def test_a_segment_with_a_block_in_use_cannot_be_given_back() -> None:
    pinned = [(0, 40 * MIB), (0, 0), (1, 20 * MIB), (2, 60 * MIB)]
    assert not replay(pinned, 80 * MIB).fits
    assert replay(pinned, 100 * MIB).fits


@given(sequences())
def test_what_is_held_is_never_less_than_what_is_in_use(steps: list[Step]) -> None:
    result = replay(steps)
    assert result.fits
    assert result.reserved >= result.allocated >= max(size for _, size in steps)


@given(sequences())
def test_a_sequence_fits_where_it_held_no_more(steps: list[Step]) -> None:
    free = replay(steps)
    assert replay(steps, free.reserved) == free


@given(sequences())
def test_the_least_capacity_fits_and_lies_between_use_and_hold(steps: list[Step]) -> None:
    free = replay(steps)
    least = least_capacity(steps)
    assert free.allocated <= least <= free.reserved
    assert replay(steps, least).fits
