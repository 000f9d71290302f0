from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.memory import MemoryEstimate, TrainingProcess, estimate
from gpuplan.planning.models import ModelFacts

A10G_MIB = 22_888
Optimizer = Literal["sgd", "adamw"]


def facts(parameters: int = 25_557_032, saved_mib: float = 82.0) -> ModelFacts:
    return ModelFacts(
        name="made up",
        image_size=224,
        classes=1000,
        parameters=parameters,
        buffers=53_173,
        forward_gflop=8.18,
        saved_mib=saved_mib,
        saved_mib_mixed=saved_mib / 2,
        operations=500,
        how="made up",
    )


def process(batch: int = 64, optimizer: Optimizer = "sgd", world_size: int = 1) -> TrainingProcess:
    return TrainingProcess(per_gpu_batch=batch, precision="fp32", optimizer=optimizer, world_size=world_size)


def known(model: ModelFacts, training: TrainingProcess, memory_mib: int = A10G_MIB) -> MemoryEstimate:
    result = estimate(model, training, memory_mib)
    assert isinstance(result, MemoryEstimate)
    return result


def item(result: MemoryEstimate, name: str) -> float:
    return next((i.gib for i in result.items if i.name == name), 0.0)


models = st.builds(facts, st.integers(1_000, 10**9), st.floats(0.01, 1000))
trainings = st.builds(
    TrainingProcess,
    per_gpu_batch=st.integers(1, 1024),
    precision=st.sampled_from(["fp32", "16-mixed", "bf16-mixed"]),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    momentum=st.sampled_from([0.0, 0.9]),
    world_size=st.sampled_from([1, 8]),
    loop=st.sampled_from(["lightning", "plain"]),
    device=st.sampled_from(["cuda", "cpu"]),
)
capacities = st.integers(1_000, 200_000)


def test_resnet50_in_fp32_has_the_items_of_the_textbook() -> None:
    result = known(facts(), process())
    copy = 25_557_032 * 4 / 2**30
    assert item(result, "gradients") == pytest.approx(copy)
    assert item(result, "optimizer state") == pytest.approx(copy)
    assert item(result, "activations") == pytest.approx(82 * 64 / 1024)
    assert result.verdict == "fits"
    assert result.capacity_gib == pytest.approx(22.35, abs=0.01)


@given(models, trainings, capacities)
def test_the_items_add_up_to_the_peak_and_none_is_negative(
    model: ModelFacts, training: TrainingProcess, memory_mib: int
) -> None:
    result = known(model, training, memory_mib)
    assert sum(i.gib for i in result.items) == pytest.approx(result.peak_gib)
    assert min(i.gib for i in result.items) >= 0
    low, high = result.error_band
    assert low <= result.peak_gib <= high


@given(models, trainings, st.integers(1, 100))
def test_a_larger_batch_never_takes_less(model: ModelFacts, training: TrainingProcess, more: int) -> None:
    larger = training.model_copy(update={"per_gpu_batch": training.per_gpu_batch + more})
    assert known(model, larger).peak_gib >= known(model, training).peak_gib


@given(models, trainings, st.integers(1, 10**9))
def test_more_parameters_take_more(model: ModelFacts, training: TrainingProcess, more: int) -> None:
    larger = model.model_copy(update={"parameters": model.parameters + more})
    assert known(larger, training).peak_gib > known(model, training).peak_gib


@given(models, trainings)
def test_adamw_never_takes_less_than_sgd(model: ModelFacts, training: TrainingProcess) -> None:
    sgd, adamw = (training.model_copy(update={"optimizer": name}) for name in ("sgd", "adamw"))
    assert known(model, adamw).peak_gib >= known(model, sgd).peak_gib


@given(models, trainings)
def test_mixed_precision_never_keeps_more_activations_than_fp32(model: ModelFacts, training: TrainingProcess) -> None:
    full, half = (training.model_copy(update={"precision": p}) for p in ("fp32", "16-mixed"))
    assert item(known(model, half), "activations") <= item(known(model, full), "activations")


@given(models, trainings)
def test_several_processes_take_buckets_more_than_one(model: ModelFacts, training: TrainingProcess) -> None:
    one, eight = (training.model_copy(update={"world_size": n}) for n in (1, 8))
    assert known(model, eight).peak_gib > known(model, one).peak_gib


@given(models, trainings, capacities, st.integers(0, 100_000))
def test_more_memory_never_gives_a_worse_verdict(
    model: ModelFacts, training: TrainingProcess, memory_mib: int, more: int
) -> None:
    order = ("too_big", "tight", "fits")
    small, large = known(model, training, memory_mib), known(model, training, memory_mib + more)
    assert order.index(large.verdict) >= order.index(small.verdict)


@given(models, trainings, capacities)
def test_what_is_too_big_passes_the_capacity_even_at_the_low_end_of_the_band(
    model: ModelFacts, training: TrainingProcess, memory_mib: int
) -> None:
    result = known(model, training, memory_mib)
    assert (result.verdict == "too_big") == (result.error_band[0] > result.capacity_gib)


def test_sgd_without_momentum_keeps_no_state() -> None:
    assert item(known(facts(), process().model_copy(update={"momentum": 0.0})), "optimizer state") == 0


def test_a_tiny_batch_of_a_large_model_peaks_in_the_optimizer() -> None:
    result = known(facts(parameters=600_000_000, saved_mib=1.0), process(batch=1, optimizer="adamw"), 40_960)
    assert item(result, "optimizer temporaries") == pytest.approx(600_000_000 * 4 / 2**30)
    assert item(result, "activations") == 0


def test_an_unknown_model_has_an_unknown_peak() -> None:
    assert estimate(Unknown(unknown="no such model"), process(), A10G_MIB) == Unknown(unknown="no such model")


def test_the_estimate_survives_json() -> None:
    result = known(facts(), process())
    assert MemoryEstimate.model_validate_json(result.canonical_json()) == result
