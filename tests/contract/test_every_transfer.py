"""Laws that every file in `gpuplan_job/transfer` keeps, whatever is in the folder."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job import transfer
from gpuplan_job.transfer.base import Transfer

EVERY_POLICY = pytest.mark.parametrize("name", transfer.names())
BATCHES = st.integers(1, 10**6)
CHANGES = st.builds(
    Transfer,
    batch_from=BATCHES,
    batch_to=BATCHES,
    noise_scale=st.none() | st.floats(0, 1e12, allow_subnormal=False),
)
CHECKED = st.builds(replace, CHANGES, checked=st.floats(1e-6, 1e6))
"""The same where a range test at the batch itself gave a learning rate."""
HAIR = 1 + 1e-9
"""What rounding may add."""


def multiplier(name: str, change: Transfer) -> float:
    return transfer.load(name).multiplier(change)


def test_there_are_policies() -> None:
    assert {"none", "sqrt", "linear", "noise-scale", "accumulate"} <= set(transfer.names())


@EVERY_POLICY
@given(CHANGES | CHECKED)
def test_the_multiplier_is_finite_and_positive(name: str, change: Transfer) -> None:
    value = multiplier(name, change)
    assert math.isfinite(value)
    assert value > 0


@EVERY_POLICY
@given(CHANGES | CHECKED)
def test_a_batch_that_does_not_change_keeps_its_lr(name: str, change: Transfer) -> None:
    assert multiplier(name, replace(change, batch_to=change.batch_from)) == 1


@EVERY_POLICY
@given(CHANGES, BATCHES)
def test_a_larger_batch_never_gets_a_smaller_lr(name: str, change: Transfer, more: int) -> None:
    larger = replace(change, batch_to=change.batch_to + more)
    assert multiplier(name, larger) >= multiplier(name, change) / HAIR


@EVERY_POLICY
@given(CHANGES, BATCHES)
def test_there_and_back_again_is_no_change(name: str, change: Transfer, other: int) -> None:
    there = replace(change, batch_to=other)
    back = replace(change, batch_from=other, batch_to=change.batch_from)
    assert multiplier(name, there) * multiplier(name, back) == pytest.approx(1)


@EVERY_POLICY
@given(CHANGES)
def test_a_growing_batch_gets_between_none_and_linear(name: str, change: Transfer) -> None:
    low, high = sorted((change.batch_from, change.batch_to))
    growing = replace(change, batch_from=low, batch_to=high)
    assert multiplier("none", growing) / HAIR <= multiplier(name, growing) <= multiplier("linear", growing) * HAIR


@EVERY_POLICY
@given(CHANGES | CHECKED)
def test_a_policy_with_nothing_to_go_by_says_that_it_falls_back(name: str, change: Transfer) -> None:
    policy = transfer.load(name)
    assert policy.can_say(change) or policy.note(change)


@EVERY_POLICY
@given(CHANGES | CHECKED)
def test_a_note_is_a_sentence_or_nothing(name: str, change: Transfer) -> None:
    note = transfer.load(name).note(change)
    assert note is None or len(note) > len("a sentence")
