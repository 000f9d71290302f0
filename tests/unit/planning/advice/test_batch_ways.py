"""How a global batch is made up of per-GPU batch, GPUs and micro-batches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.advice.batch_ways import Machine, ways

A10G = Machine(instance="g5", gpu="A10G", gpus=4, memory_gib=22.4)


def shape(to_batch: int, from_batch: int, machine: Machine, per_gpu: int | None = None) -> list[tuple[int, int, int]]:
    found = ways(to_batch, from_batch, machine, per_gpu)
    return [(way.per_gpu, way.world_size, way.accumulation) for way in found]


def test_without_a_machine_the_known_batch_is_one_gpus_and_every_number_of_gpus_is_shown() -> None:
    assert shape(256, 64, Machine()) == [(64, 4, 1), (64, 2, 2), (64, 1, 4)]


def test_a_batch_that_is_no_multiple_of_the_known_one_is_split_evenly() -> None:
    assert all(per_gpu <= 64 for per_gpu, _, _ in shape(96, 64, Machine()))
    assert shape(96, 64, Machine())[0] == (48, 2, 1)


def test_a_machine_accumulates_no_more_than_its_memory_usually_asks_for() -> None:
    assert shape(256, 64, A10G) == [(64, 4, 1)]
    assert shape(1024, 64, A10G) == [(128, 4, 2), (64, 4, 4)]
    assert shape(1024, 64, A10G.model_copy(update={"memory_gib": 40.0}))[0] == (256, 4, 1)


def test_a_batch_too_large_for_the_usual_start_gets_as_few_samples_a_gpu_as_possible() -> None:
    assert shape(16_384, 64, A10G) == [(256, 4, 16)]
    assert shape(4 * 8191, 64, A10G) == [(8191, 4, 1)]


def test_a_per_gpu_batch_that_was_named_is_kept() -> None:
    assert shape(256, 64, A10G, per_gpu=16) == [(16, 4, 4)]
    assert shape(250, 64, A10G, per_gpu=16) == []


@pytest.mark.parametrize(("gib", "most"), [(4, 32), (8, 64), (16, 128), (22.4, 128), (24, 256), (40, 256), (80, 256)])
def test_the_usual_start_grows_with_the_gpus_memory(gib: float, most: int) -> None:
    assert Machine(memory_gib=gib).largest_start == most


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.none() | st.integers(1, 64))
def test_a_way_is_always_the_whole_batch(to_batch: int, from_batch: int, gpus: int | None) -> None:
    for way in ways(to_batch, from_batch, Machine(gpus=gpus), None):
        assert way.per_gpu * way.world_size * way.accumulation == to_batch
        assert gpus in {None, way.world_size}
