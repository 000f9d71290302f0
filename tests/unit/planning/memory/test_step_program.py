"""A step's trace as training iterations: what is alive when, for each optimizer and loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.memory.allocator import replay
from gpuplan.planning.memory.step_program import (
    Around,
    Loop,
    Optimizer,
    Program,
    assemble,
    at_peak,
    bucket_sizes,
    optimizer_memory,
)
from unit.planning.tracing import MIB, trace

PLAIN = Around(8, "sgd", momentum=0.0, weight_decay=0.0, loop="plain", buckets=False)
WEIGHTS = 40 * MIB
LOOPS: tuple[Loop, ...] = ("lightning", "plain", "plain, gradients set to zero last")
OPTIMIZERS: tuple[Optimizer, ...] = ("sgd", "adam", "adamw", "rmsprop", "adagrad")


def by_kind(program: Program) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (kind, _), size in at_peak(program).items():
        totals[kind] += size
    return dict(totals)


@pytest.mark.parametrize(
    ("optimizer", "copies"), [("sgd", 0), ("adam", 2), ("adamw", 2), ("rmsprop", 1), ("adagrad", 1)]
)
def test_an_optimizer_keeps_its_copies_of_the_weights(optimizer: Optimizer, copies: int) -> None:
    found = by_kind(assemble(trace(), replace(PLAIN, optimizer=optimizer)))
    assert found.get("optimizer state", 0) == copies * WEIGHTS


def test_momentum_is_a_copy_of_the_weights() -> None:
    assert by_kind(assemble(trace(), replace(PLAIN, momentum=0.9)))["optimizer state"] == WEIGHTS


def test_adagrad_has_its_state_before_the_first_step() -> None:
    first = assemble(trace(), replace(PLAIN, optimizer="adagrad"), iterations=1)
    assert "optimizer state" in first.kinds[: first.kinds.index("activations")]
    assert optimizer_memory("adam", 0, 0).state_from_start is False


def test_lightning_keeps_gradients_alive_through_the_forward_pass_and_a_plain_loop_does_not() -> None:
    large = replace(PLAIN, batch=64)
    assert by_kind(assemble(trace(), replace(large, loop="lightning"))).get("gradients", 0) == WEIGHTS
    deep = trace(weights=(WEIGHTS, MIB))
    assert by_kind(assemble(deep, large)).get("gradients", 0) <= WEIGHTS + MIB


def test_a_plain_loop_holds_its_logits_through_the_next_forward_pass() -> None:
    def freed_after_the_next_activation(loop: Loop) -> bool:
        program = assemble(trace(logits=MIB), replace(PLAIN, loop=loop), iterations=2)
        made = [number for number, kind in enumerate(program.kinds) if kind == "activations"]
        logits, next_activation = made[1], made[2]
        events = [(number, bool(size)) for number, size in program.steps]
        return events.index((logits, False)) > events.index((next_activation, True))

    assert freed_after_the_next_activation("plain")
    assert not freed_after_the_next_activation("lightning")


def test_mixed_precision_keeps_a_half_copy_of_the_weights_until_the_backward_pass() -> None:
    assert by_kind(assemble(trace(mixed=True), PLAIN))["half-precision weights"] == WEIGHTS // 2


def test_ddp_keeps_its_buckets_from_the_start() -> None:
    assert by_kind(assemble(trace(), replace(PLAIN, buckets=True)))["DDP buckets"] == WEIGHTS


def test_buckets_hold_all_gradients_from_the_last_to_the_first() -> None:
    sizes = bucket_sizes([30 * MIB, 20 * MIB, 10 * MIB, MIB // 2, MIB])
    assert sizes == [MIB, 30 * MIB + MIB // 2, 30 * MIB]


@given(st.lists(st.integers(1, 40 * MIB), max_size=30))
def test_buckets_lose_no_gradient(gradients: list[int]) -> None:
    assert sum(bucket_sizes(gradients)) == sum(gradients)


@given(
    st.sampled_from(OPTIMIZERS),
    st.sampled_from(LOOPS),
    st.booleans(),
    st.booleans(),
    st.integers(1, 64),
    st.integers(1, 4),
)
def test_what_is_made_is_freed_once_at_the_most_and_the_peak_adds_up(
    optimizer: Optimizer,
    loop: Loop,
    buckets: bool,  # noqa: FBT001 - drawn like the others
    mixed: bool,  # noqa: FBT001 - as above
    batch: int,
    iterations: int,
) -> None:
    around = Around(batch, optimizer, 0.9, 0.01, loop, buckets)
    program = assemble(trace((8 * MIB, 3 * MIB, 700), mixed=mixed, logits=4000), around, iterations)
    made = [number for number, size in program.steps if size]
    freed = [number for number, size in program.steps if not size]
    assert len(set(made)) == len(made) == len(program.kinds)
    assert len(set(freed)) == len(freed)
    assert sum(at_peak(program).values()) <= replay(program.steps).allocated, (
        "blocks may be larger than what is in them"
    )


@given(st.sampled_from(OPTIMIZERS), st.sampled_from(LOOPS))
def test_a_third_iteration_reserves_nothing_new(optimizer: Optimizer, loop: Loop) -> None:
    around = replace(PLAIN, optimizer=optimizer, loop=loop)
    reserved = [replay(assemble(trace((8 * MIB, 3 * MIB)), around, n).steps).reserved for n in (3, 6)]
    assert reserved[0] == reserved[1]
