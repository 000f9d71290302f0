"""A model of PyTorch's caching allocator: what a sequence of allocations makes it reserve, and whether it fits.

Pure; called by `memory`. Rules and sizes are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.0 to 2.14) with its
default settings and one stream.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
_ROUNDING = 512
"""Every size is rounded up to a multiple of this: kMinBlockSize."""
_SMALL = MIB
"""Up to this a block comes from the pool of small ones: kSmallSize."""
_SMALL_SEGMENT = 2 * MIB
"""What is asked of the driver for small blocks: kSmallBuffer."""
_MIDDLE = 10 * MIB
"""Below this a large block comes out of a segment of kLargeBuffer: kMinLargeAlloc."""
_MIDDLE_SEGMENT = 20 * MIB
_SEGMENT_ROUNDING = 2 * MIB
"""Larger segments are multiples of this: kRoundLarge."""


Step = tuple[int, int]
"""One call, a number and a size: that many bytes are allocated under the number, or freed where the size is 0. Plain
tuples, because hundreds of thousands are kept and Python's garbage collector passes over them."""


class Replay(NamedTuple):
    """What came of a sequence."""

    fits: bool
    """False: an allocation failed although every cached block had been given back."""
    reserved: int
    """Most bytes held at a time, used or cached: what a monitor shows beyond the context."""
    allocated: int
    """Most bytes in use at a time."""


class _Block:
    __slots__ = ("address", "after", "before", "free", "size", "small")

    def __init__(self, address: int, size: int, *, small: bool) -> None:
        self.address = address
        self.size = size
        self.small = small
        self.free = False
        self.before: _Block | None = None
        self.after: _Block | None = None


class _Pool:
    """The free blocks of one kind, smallest first, of equal ones the lowest address."""

    def __init__(self) -> None:
        self.order: list[tuple[int, int]] = []
        self.blocks: dict[int, _Block] = {}

    def add(self, block: _Block) -> None:
        insort(self.order, (block.size, block.address))
        self.blocks[block.address] = block

    def remove(self, block: _Block) -> None:
        del self.order[bisect_left(self.order, (block.size, block.address))]
        del self.blocks[block.address]

    def take(self, size: int) -> _Block | None:
        """Return the smallest block of at least `size`, no longer free."""
        position = bisect_left(self.order, (size, -1))
        if position == len(self.order):
            return None
        return self.blocks.pop(self.order.pop(position)[1])


class _Allocator:
    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.reserved = self.most_reserved = 0
        self.allocated = self.most_allocated = 0
        self._next_address = 0
        self._small, self._large = _Pool(), _Pool()
        self._used: dict[int, _Block] = {}

    def allocate(self, number: int, size: int) -> bool:
        size = rounded(size)
        small = size <= _SMALL
        pool = self._small if small else self._large
        block = pool.take(size) or self._segment(size, small=small)
        if block is None:
            return False
        rest = block.size - size
        if rest >= _ROUNDING if small else rest > _SMALL:
            self._split(block, size, pool)
        block.free = False
        self._used[number] = block
        self.allocated += block.size
        self.most_allocated = max(self.most_allocated, self.allocated)
        return True

    def release(self, number: int) -> None:
        block = self._used.pop(number)
        pool = self._small if block.small else self._large
        self.allocated -= block.size
        before, after = block.before, block.after
        if before is not None and before.free:
            pool.remove(before)
            block = self._join(before, block)
        if after is not None and after.free:
            pool.remove(after)
            block = self._join(block, after)
        block.free = True
        pool.add(block)

    def _segment(self, size: int, *, small: bool) -> _Block | None:
        """Return a new segment as one block, cached ones given back first where there is no room; None if too large."""
        wanted = segment_size(size)
        if self.capacity is not None and self.reserved + wanted > self.capacity:
            self._give_back()
            if self.reserved + wanted > self.capacity:
                return None
        block = _Block(self._next_address, wanted, small=small)
        # A gap, so that no block seems to begin where another segment ends.
        self._next_address += wanted + _ROUNDING
        self.reserved += wanted
        self.most_reserved = max(self.most_reserved, self.reserved)
        return block

    def _give_back(self) -> None:
        for pool in (self._small, self._large):
            for block in list(pool.blocks.values()):
                if block.before is None and block.after is None:
                    pool.remove(block)
                    self.reserved -= block.size

    @staticmethod
    def _split(block: _Block, size: int, pool: _Pool) -> None:
        rest = _Block(block.address + size, block.size - size, small=block.small)
        rest.before, rest.after, rest.free = block, block.after, True
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        pool.add(rest)

    @staticmethod
    def _join(first: _Block, second: _Block) -> _Block:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        return first


def rounded(size: int) -> int:
    """Return the bytes a block of `size` takes."""
    return -(-size // _ROUNDING) * _ROUNDING or _ROUNDING


def segment_size(size: int) -> int:
    """Return the bytes asked of the driver for a block of `size` where no cached one serves."""
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _MIDDLE:
        return _MIDDLE_SEGMENT
    return -(-size // _SEGMENT_ROUNDING) * _SEGMENT_ROUNDING


def replay(steps: Sequence[Step], capacity: int | None = None) -> Replay:
    """Return what a sequence comes to in `capacity` bytes, or without a bound; it ends where an allocation fails."""
    allocator = _Allocator(capacity)
    fits = True
    for number, size in steps:
        if not size:
            allocator.release(number)
        elif not allocator.allocate(number, size):
            fits = False
            break
    return Replay(fits, allocator.most_reserved, allocator.most_allocated)


def least_capacity(steps: Sequence[Step], *, above: int = 0, tolerance: float = 0.005) -> int:
    """Return the smallest capacity in bytes in which a sequence fits, and fits in every larger one.

    It is not found by bisection: a sequence may fit in less and not in more, where the bound that makes the allocator
    give cached blocks back early keeps it from cutting them up. A gap narrower than `tolerance`, a share of the
    capacity, may go unnoticed. At or under `above` it is not looked for: the result is then some capacity that fits,
    and not more than `above`.
    """
    found = replay(steps)
    capacity = least = found.reserved
    while found.fits:
        # Nothing passed found.reserved, so every capacity from there up to this one has the same course.
        least = found.reserved
        if least <= above:
            break
        capacity = max(min(least - 1, int(capacity * (1 - tolerance))), above)
        found = replay(steps, capacity)
    return least
