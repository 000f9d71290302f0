"""What can go wrong in looking for a learning rate or a batch in Python, said with what to do about it."""

from __future__ import annotations


class FindLrError(ValueError):
    """The search cannot be made as it was asked for."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem = problem
        self.fix = fix


class NoLearningRateError(LookupError):
    """There is no learning rate to take from a range test that gave none."""


class NoBatchError(LookupError):
    """Not even the smallest batch leaves the room that a safe one must."""
