"""Whether more GPUs pay: the law of McCandlish et al. 2018 in steps and examples, real hours and dollars on top."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.advice.critical_batch import (
    CriticalBatch,
    GpuOption,
    Reference,
    critical_batch,
    without_machines,
)
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.money.cost import LOCAL_RATE, Cost, Rate
from gpuplan.planning.speed.throughput import Hours

COUNTS = (1, 2, 4, 8)
NOISE = st.floats(0, 1e9, allow_subnormal=False)
PER_GPU = st.integers(1, 4096)
STEPS = 1_000_000
NO_PRICE = Unknown(unknown="no price")


def option(gpus: int, per_gpu: int = 64, usd: str = "1", **more: object) -> GpuOption:
    """Return GPUs that scale perfectly, at a price by the GPU: an hour for 3,600 steps, whatever their number."""
    steps = STEPS // gpus
    known = {
        "gpus": gpus,
        "batch": StepBatch.of(per_gpu, gpus),
        "instance_type": f"x{gpus}",
        "optimizer_steps": steps,
        "time_hours": Hours(p50=steps / 3600, p90=steps / 3600 * 1.3),
        "rate_usd_per_hour": Rate(amount=Decimal(usd) * gpus, source="the test"),
    }
    return GpuOption.model_validate(known | more)


def found(noise: float, per_gpu: int = 64, gpus: int = 4, usd: str = "1", **more: object) -> CriticalBatch:
    """Return the advice for a training planned on `gpus` GPUs."""
    steps = STEPS // gpus
    reference = Reference(batch=per_gpu * gpus, steps=steps, examples=steps * per_gpu * gpus)
    return critical_batch(noise, [option(count, per_gpu, usd, **more) for count in COUNTS], reference)


@given(NOISE, PER_GPU, st.sampled_from(COUNTS))
def test_more_gpus_take_fewer_steps_and_more_examples_to_the_same_loss(noise: float, per_gpu: int, gpus: int) -> None:
    rows = found(noise, per_gpu, gpus).rows
    for before, after in itertools.pairwise(rows):
        assert after.steps_factor <= before.steps_factor
        assert after.examples_factor >= before.examples_factor


@given(NOISE, PER_GPU, st.sampled_from(COUNTS))
def test_twice_the_gpus_take_at_least_half_the_steps_and_at_most_twice_the_examples(
    noise: float, per_gpu: int, gpus: int
) -> None:
    rows = found(noise, per_gpu, gpus).rows
    for before, after in itertools.pairwise(rows):
        assert after.steps_factor >= before.steps_factor / 2 * (1 - 1e-12)
        assert after.examples_factor <= before.examples_factor * 2 * (1 + 1e-12)


@given(NOISE, PER_GPU, st.sampled_from(COUNTS))
def test_steps_times_batch_are_the_examples_and_the_planned_row_is_the_plan(
    noise: float, per_gpu: int, gpus: int
) -> None:
    advice = found(noise, per_gpu, gpus)
    for row in advice.rows:
        assert row.steps_factor * row.global_batch == pytest.approx(row.examples_factor * advice.reference_batch)
    (planned,) = [row for row in advice.rows if row.reference]
    assert (planned.gpus, planned.steps_factor, planned.examples_factor) == (gpus, 1.0, 1.0)
    assert planned.steps == STEPS // gpus


@given(NOISE, PER_GPU, st.sampled_from(COUNTS))
def test_the_law_is_that_of_the_paper(noise: float, per_gpu: int, gpus: int) -> None:
    advice = found(noise, per_gpu, gpus)
    for row in advice.rows:
        # S / S_min = 1 + Bn / B, each over the reference's.
        law = (1 + noise / row.global_batch) / (1 + noise / advice.reference_batch)
        assert row.steps_factor == pytest.approx(law)


@given(NOISE, PER_GPU, st.sampled_from(COUNTS))
def test_time_never_falls_by_more_than_the_batch_grows(noise: float, per_gpu: int, gpus: int) -> None:
    rows = found(noise, per_gpu, gpus).rows
    for row in rows[1:]:
        assert isinstance(row.time_factor, float)
        assert row.time_factor >= 0.5 * (1 - 1e-3)  # steps are whole


@given(st.floats(8, 1e5), PER_GPU, st.sampled_from(COUNTS))
def test_gpus_that_scale_perfectly_pay_up_to_the_batch_nearest_the_noise_scale(
    noise: float, per_gpu: int, gpus: int
) -> None:
    advice = found(noise, per_gpu, gpus)
    distance = {row.gpus: abs(math.log(row.global_batch / noise)) for row in advice.rows}
    assert advice.judged == "hours x dollars"
    assert distance[advice.pays_up_to] == pytest.approx(min(distance.values()), abs=1e-2)


@given(NOISE, st.floats(1, 1e12))
def test_a_larger_noise_scale_never_makes_fewer_gpus_pay(noise: float, more: float) -> None:
    assert found(noise).pays_up_to <= found(noise + more).pays_up_to


def test_a_dearer_machine_stops_paying_earlier() -> None:
    assert found(1e6).pays_up_to == 8
    options = [option(count, usd="1" if count < 8 else "3") for count in COUNTS]
    dear = critical_batch(1e6, options, Reference(batch=256, steps=STEPS // 4, examples=STEPS * 64))
    assert dear.pays_up_to == 4
    assert dear.verdict == "more GPUs pay up to 4: 8 take x 0.50 the time and x 3.00 the dollars"


def test_far_under_the_batches_nothing_is_gained_by_more_gpus() -> None:
    advice = found(1.0)
    assert advice.pays_up_to == 1
    assert advice.verdict == "no more than 1 pays: 2 take x 0.99 the time and x 1.98 the dollars"


def test_a_price_that_is_not_known_stays_unknown_and_steps_and_examples_decide() -> None:
    advice = found(256.0, rate_usd_per_hour=NO_PRICE)
    assert all(row.cost_usd == NO_PRICE for row in advice.rows)
    assert all(isinstance(row.time_hours, Hours) for row in advice.rows)
    assert (advice.judged, advice.pays_up_to) == ("steps x examples", 4)


def test_one_number_of_gpus_without_a_price_leaves_the_others_to_compare() -> None:
    options = [option(1), option(2, rate_usd_per_hour=NO_PRICE), option(4), option(8)]
    advice = critical_batch(1e6, options, Reference(batch=256, steps=STEPS // 4, examples=STEPS * 64))
    assert [isinstance(row.cost_usd, Cost) for row in advice.rows] == [True, False, True, True]
    assert [isinstance(row.cost_factor, float) for row in advice.rows] == [False, False, False, True]
    assert (advice.judged, advice.pays_up_to) == ("hours x dollars", 8)


def test_where_nothing_is_billed_time_alone_decides() -> None:
    advice = found(256.0, rate_usd_per_hour=LOCAL_RATE)
    assert (advice.judged, advice.pays_up_to) == ("hours", 8)
    assert all(isinstance(row.cost_factor, Unknown) for row in advice.rows)


def test_a_measured_step_replaces_the_estimate_where_it_carries_over() -> None:
    reference = Reference(batch=64, steps=STEPS, examples=STEPS * 64)
    scaled = option(1, measured_scale=2.0, startup_minutes=(6.0, 9.0))
    advice = critical_batch(100.0, [scaled, option(2)], reference, step_seconds=0.5)
    first, second = advice.rows
    assert isinstance(first.time_hours, Hours)
    assert first.time_hours.p50 == pytest.approx(STEPS / 3600 + 0.1)
    assert isinstance(second.time_hours, Hours)
    assert second.time_hours.p50 == pytest.approx(second.steps_factor * STEPS / 3600, rel=1e-4)
    assert advice.speed == "measured"


def test_data_that_load_more_slowly_than_the_gpus_compute_bound_a_measured_step() -> None:
    slow = option(1, measured_scale=1.0, loading_seconds=3.0)
    reference = Reference(batch=64, steps=1200, examples=1200 * 64)
    (row,) = critical_batch(100.0, [slow], reference, step_seconds=0.1).rows
    assert isinstance(row.time_hours, Hours)
    assert row.time_hours.p50 == pytest.approx(1.0)


def test_without_machines_the_law_alone_speaks() -> None:
    nothing = Unknown(unknown="give --epochs")
    options = without_machines(StepBatch.of(64, 3))
    advice = critical_batch(784.0, options, Reference(batch=64, steps=nothing, examples=nothing))
    assert [row.gpus for row in advice.rows] == [1, 2, 3, 4, 8]
    assert all(row.steps == nothing for row in advice.rows)
    assert all(isinstance(row.time_hours, Unknown) for row in advice.rows)
    assert (advice.judged, advice.speed, advice.pays_up_to) == ("steps x examples", "unknown", 8)


def test_the_caveat_says_that_the_figure_is_a_lower_bound_and_whose_law_it_is() -> None:
    caveat = found(100.0).caveat
    assert "lower bound" in caveat
    assert "McCandlish et al. 2018" in caveat
    assert "small data" in caveat
