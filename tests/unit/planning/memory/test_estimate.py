"""The memory estimate: its items, its verdict and how it moves with what it depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.memory.estimate import (
    MemoryEstimate,
    TrainingProcess,
    estimate,
    footprint,
    largest_batch,
    least_card_gib,
)
from gpuplan.planning.traces.source import Shipped, Traced, request_for
from gpuplan_job import data
from unit.planning.tracing import MIB, trace, traced

if TYPE_CHECKING:
    from gpuplan.planning.memory.step_program import Optimizer

A10G_MIB = 22_888
CHAIN = traced(trace((40 * MIB, 20 * MIB), 2 * MIB))
MIXED = traced(trace((40 * MIB, 20 * MIB), MIB, mixed=True))
PROCESS = TrainingProcess(per_gpu_batch=64, precision="fp32", optimizer="sgd")


def known(of: Traced, process: TrainingProcess, memory_mib: int = A10G_MIB) -> MemoryEstimate:
    found = estimate(of, process, memory_mib)
    assert isinstance(found, MemoryEstimate)
    return found


@st.composite
def processes(draw: st.DrawFn) -> TrainingProcess:
    optimizers: tuple[Optimizer, ...] = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
    return TrainingProcess(
        per_gpu_batch=draw(st.integers(1, 400)),
        precision="fp32",
        optimizer=draw(st.sampled_from(optimizers)),
        momentum=draw(st.sampled_from([0.0, 0.9])),
        world_size=draw(st.sampled_from([1, 2, 8])),
        loop=draw(st.sampled_from(["lightning", "plain"])),
    )


def test_an_unknown_trace_gives_an_unknown_peak() -> None:
    why = Unknown(unknown="never traced")
    assert estimate(why, PROCESS, A10G_MIB) is why
    assert largest_batch(why, PROCESS, A10G_MIB) is why


@given(processes(), st.integers(100, 200_000))
def test_the_items_add_up_and_the_peak_lies_in_its_band(process: TrainingProcess, memory_mib: int) -> None:
    found = known(CHAIN, process, memory_mib)
    assert sum(item.gib for item in found.items) == pytest.approx(found.peak_gib)
    assert found.error_band[0] <= found.peak_gib <= found.error_band[1]


@given(processes(), st.integers(1, 100))
def test_a_larger_batch_never_uses_less(process: TrainingProcess, more: int) -> None:
    larger = process.model_copy(update={"per_gpu_batch": process.per_gpu_batch + more})
    assert footprint(CHAIN, larger).allocated >= footprint(CHAIN, process).allocated


@given(processes(), st.integers(200, 60_000), st.integers(0, 60_000))
def test_what_fits_a_card_fits_a_larger_one(process: TrainingProcess, memory_mib: int, more: int) -> None:
    order = ("too_big", "tight", "fits")
    small, large = (known(CHAIN, process, size).verdict for size in (memory_mib, memory_mib + more))
    assert order.index(large) >= order.index(small)


@given(processes())
def test_on_the_smallest_card_it_is_at_least_tight_and_on_a_tenth_less_too_big(process: TrainingProcess) -> None:
    least = least_card_gib(CHAIN, process) * 1024
    assert known(CHAIN, process, round(least) + 1).verdict != "too_big"
    assert known(CHAIN, process, round(least * 0.9)).verdict == "too_big"


@settings(max_examples=25)
@given(processes(), st.integers(2_000, 30_000))
def test_the_largest_batch_fits_and_is_not_far_below_one_that_does_not(
    process: TrainingProcess, memory_mib: int
) -> None:
    batch = largest_batch(CHAIN, process, memory_mib)
    assert isinstance(batch, int)
    if batch:
        at = process.model_copy(update={"per_gpu_batch": batch})
        assert known(CHAIN, at, memory_mib).verdict == "fits"
    above = process.model_copy(update={"per_gpu_batch": batch + 1})
    assert known(CHAIN, above, memory_mib).verdict != "fits"


def test_under_pressure_a_monitor_shows_less_than_with_room_to_spare() -> None:
    roomy = known(CHAIN, PROCESS, 80_000)
    tight = known(CHAIN, PROCESS, round(least_card_gib(CHAIN, PROCESS) * 1024) + 4)
    assert tight.peak_gib <= roomy.peak_gib
    assert tight.peak_gib <= tight.capacity_gib


def test_several_gpus_take_buckets_and_nccl_more() -> None:
    one, two = (known(CHAIN, PROCESS.model_copy(update={"world_size": n})) for n in (1, 2))
    assert {item.name for item in two.items} - {item.name for item in one.items} == {"DDP buckets", "NCCL"}
    assert two.peak_gib > one.peak_gib


def test_a_size_that_was_not_traced_widens_the_band_and_asks_for_more_room() -> None:
    rough = Traced(CHAIN.step, "scaled", size_error=0.2)
    least = round(least_card_gib(CHAIN, PROCESS) * 1024 * 1.05)
    assert known(CHAIN, PROCESS, least).verdict == "fits"
    assert known(rough, PROCESS, least).verdict == "tight"
    assert known(rough, PROCESS).error_band[1] > known(CHAIN, PROCESS).error_band[1]


def test_hopper_s_cublas_takes_more() -> None:
    def workspaces(capability: str | None) -> float:
        found = known(CHAIN, PROCESS.model_copy(update={"compute_capability": capability}))
        return next(item.gib for item in found.items if item.name == "cuBLAS workspaces")

    assert workspaces("9.0") == pytest.approx(2 * 32 / 1024)
    assert workspaces("8.6") == workspaces(None) == pytest.approx(2 * 8.125 / 1024)


def test_on_a_cpu_there_is_no_context_but_the_libraries() -> None:
    found = known(CHAIN, PROCESS.model_copy(update={"device": "cpu"}))
    assert next(item for item in found.items if item.name == "context").gib == pytest.approx(0.8)


def test_mixed_precision_keeps_half_copies_of_the_weights() -> None:
    found = known(MIXED, PROCESS.model_copy(update={"precision": "16-mixed"}))
    assert next(i for i in found.items if i.name == "half-precision weights").gib == pytest.approx(30 / 1024)


def test_resnet50_at_batch_64_in_mixed_precision_takes_what_is_in_its_trace() -> None:
    asked = request_for("resnet50", data.describe("imagenet"), "bf16-mixed")
    resnet50 = Shipped().find(asked)
    found = estimate(resnet50, PROCESS.model_copy(update={"precision": "bf16-mixed"}), A10G_MIB)
    assert isinstance(found, MemoryEstimate)
    gib = {item.name: item.gib for item in found.items}
    assert gib["parameters"] == pytest.approx(25_557_032 * 4 / 2**30, rel=1e-3)
    assert gib["activations"] == pytest.approx(2.61, rel=0.01)
    assert found.verdict == "fits"
