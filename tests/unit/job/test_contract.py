"""The contract: what is written reads back equal, and a reader refuses everything else with one exception."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job.contract import (
    BatchSpec,
    BatchSweeps,
    Curve,
    Decision,
    EpochMetrics,
    Failure,
    JobInput,
    LrResult,
    LrTarget,
    Measured,
    NoiseScale,
    Progress,
    SweepAt,
    SweepSpec,
    TrainResult,
    TrainSpec,
    WorkloadSpec,
)
from gpuplan_job.document import ContractError, Document, canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

WORKLOAD = WorkloadSpec(
    model="resnet18",
    data="digits",
    optimizer="sgd",
    momentum=0.9,
    weight_decay=5e-4,
    schedule="onecycle",
    label_smoothing=0.1,
    epochs=4,
    precision="fp32",
    seed=0,
    workers=2,
)
BATCH = BatchSpec(32, 2, 1)
CHECK = SweepAt(BatchSpec(32, 1, 2), runs=2, iterations=60, reference_steps=90)
COMPARE = SweepAt(BatchSpec(64, 1, 1), runs=3, iterations=100, reference_steps=90)
SWEEP = SweepSpec(
    3, 100, 1e-5, 10.0, 180, 16, target=LrTarget("edge", "noise-scale", 64, 90), check=CHECK, compare=[COMPARE]
)
CURVE = Curve([1e-5, 1e-4], [2.3, 2.2], "completed", 10.0, 0)
DECISION = Decision(
    "ok",
    "edge",
    "noise-scale",
    learning_rate=0.05,
    band=(0.04, 0.06),
    multiplier=1.5,
    training_learning_rate=0.075,
    by_policy={"none": 0.05, "noise-scale": 0.075},
    checked_learning_rate=0.02,
    warning="more than 2 x apart",
)
MEASURED = Measured(0.1, 320.0, None, "cpu")
DOCUMENTS: list[Document] = [
    JobInput("run-1", "train", 1, "abc", WORKLOAD, BATCH, "cpu", train=TrainSpec(0.05)),
    JobInput("run-1", "lr-find", 1, "abc", WORKLOAD, BATCH, "auto", sweep=SWEEP),
    LrResult(
        "run-1",
        "lr-find",
        1,
        "00",
        WORKLOAD,
        SWEEP,
        BATCH,
        "fp32",
        [CURVE],
        NoiseScale(0.5, 20.0, 16, 32),
        BatchSweeps(CHECK, [CURVE]),
        [BatchSweeps(COMPARE, [CURVE, CURVE])],
        DECISION,
        MEASURED,
        {"torch": "2.14.1"},
    ),
    TrainResult(
        "run-1",
        "train",
        1,
        "00",
        2,
        0.05,
        [EpochMetrics(1, 1.0, 0.9, 0.7, 0.05, 3.0)],
        1,
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        23,
        MEASURED,
        {},
    ),
    Progress("train", "epoch 1 of 4", 3, 92, {"loss": 2.1}),
    Failure("run-1", "train", 1, "data", "no such folder: naïve 画", "look", 1, "Traceback"),
]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
NUMBERS_TOO_LARGE = ("1e999", "-1e999", "9" * 400, "9" * 5000)
NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def edit(document: Document, change: Callable[[dict[str, object]], object]) -> str:
    raw = json.loads(document.to_json())
    change(raw)
    return json.dumps(raw)


@each_document
def test_what_is_written_reads_back_equal(document: Document) -> None:
    assert type(document).from_json(document.to_json()) == document
    assert type(document).from_json(document.to_json().encode()) == document


@each_document
def test_the_text_is_canonical(document: Document) -> None:
    assert document.to_json() == canonical_json(json.loads(document.to_json()))


@each_document
def test_every_truncation_is_refused(document: Document) -> None:
    text = document.to_json()
    for length in range(len(text)):
        with pytest.raises(ContractError):
            type(document).from_json(text[:length])


@each_document
def test_an_extra_a_missing_and_a_wrong_schema_key_are_refused(document: Document) -> None:
    kind = type(document)
    with pytest.raises(ContractError, match="unknown key 'surprise'"):
        kind.from_json(edit(document, lambda raw: raw.update(surprise=1)))
    with pytest.raises(ContractError, match="'step' is missing"):
        kind.from_json(edit(document, lambda raw: raw.pop("step")))
    with pytest.raises(ContractError, match="expected schema"):
        kind.from_json(edit(document, lambda raw: raw.update(schema="gpuplan.other/9")))


@each_document
def test_a_key_that_stands_twice_is_refused(document: Document) -> None:
    text = document.to_json()
    with pytest.raises(ContractError, match="twice"):
        type(document).from_json(text[:-1] + ',"step":"train"}')


@pytest.mark.parametrize("number", [*NOT_FINITE, *NUMBERS_TOO_LARGE, "true", '"0.05"', "null", "[]", "{}"])
def test_a_learning_rate_that_is_no_finite_number_is_refused(number: str) -> None:
    text = DOCUMENTS[0].to_json().replace('"learning_rate":0.05', f'"learning_rate":{number}')
    assert number in text
    with pytest.raises(ContractError):
        JobInput.from_json(text)


@pytest.mark.parametrize("value", ["true", "1.0", '"1"', "null"])
def test_an_attempt_that_is_no_whole_number_is_refused(value: str) -> None:
    with pytest.raises(ContractError):
        JobInput.from_json(DOCUMENTS[0].to_json().replace('"attempt":1', f'"attempt":{value}'))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_written(number: float) -> None:
    with pytest.raises(ContractError):
        Progress("train", "", 0, 1, {"loss": number}).to_json()


@pytest.mark.parametrize("band", ["[0.04]", "[0.04,0.06,0.08]", "[]", "0.04", '[0.04,"0.06"]', "[0.04,null]", "{}"])
def test_a_band_that_is_no_pair_of_numbers_is_refused(band: str) -> None:
    text = DOCUMENTS[2].to_json().replace('"band":[0.04,0.06]', f'"band":{band}')
    assert f'"band":{band}' in text
    with pytest.raises(ContractError, match=r"decision\.band"):
        LrResult.from_json(text)


def test_a_band_reads_back_as_a_pair_and_one_that_is_not_there_as_none() -> None:
    read = LrResult.from_json(DOCUMENTS[2].to_json())
    assert read.decision.band == (0.04, 0.06)
    none = replace(read, decision=Decision("flat", "edge", "none", reason="no fall", fix="--runs 5"))
    assert LrResult.from_json(none.to_json()).decision.band is None


def test_an_input_names_exactly_one_task() -> None:
    job_input = JobInput.from_json(DOCUMENTS[0].to_json())
    with pytest.raises(ContractError, match="exactly one"):
        replace(job_input, sweep=SWEEP)
    with pytest.raises(ContractError, match="exactly one"):
        replace(job_input, train=None)


def test_progress_is_read_from_its_line_and_from_no_other() -> None:
    progress = Progress("train", "epoch 1 of 4", 3, 92, {"loss": 2.1})
    line = progress.to_line()
    assert "\n" not in line
    assert Progress.from_line(line) == progress
    assert Progress.from_line("epoch 1") is None
    assert Progress.from_line(line[:-5]) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data(), document=st.sampled_from(DOCUMENTS), value=json_values)
def test_any_value_in_any_field_reads_or_raises_contract_error(
    data: st.DataObject, document: Document, value: object
) -> None:
    raw = json.loads(document.to_json())
    place: dict[str, object] | list[object] = raw
    while True:
        keys: list[object] = [*place] if isinstance(place, dict) else [*range(len(place))]
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inner = place[key]  # type: ignore[index, call-overload] # the key was drawn from this container
        if not isinstance(inner, dict | list) or data.draw(st.booleans()):
            place[key] = value  # type: ignore[index, call-overload] # as above
            break
        place = inner
    try:
        read = type(document).from_json(json.dumps(raw))
    except ContractError:
        return
    assert type(document).from_json(read.to_json()) == read


@given(document=st.sampled_from(DOCUMENTS), position=st.integers(0, 400), replacement=st.binary(min_size=1, max_size=3))
def test_damaged_bytes_read_or_raise_contract_error(document: Document, position: int, replacement: bytes) -> None:
    data = document.to_json().encode()
    damaged = data[:position] + replacement + data[position + len(replacement) :]
    try:
        type(document).from_json(damaged)
    except ContractError:
        return


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_anything_else_raises_contract_error(text: str | bytes) -> None:
    for document in DOCUMENTS:
        with pytest.raises(ContractError):
            type(document).from_json(text)


@given(st.lists(st.floats(1e-9, 10), min_size=2, max_size=5), st.lists(st.floats(0, 9), min_size=2, max_size=5))
def test_a_curve_has_as_many_losses_as_rising_rates(rates: list[float], losses: list[float]) -> None:
    rising = all(low < high for low, high in pairwise(rates))
    if rising and len(rates) == len(losses):
        assert Curve(rates, losses, "completed", 10.0, 0).losses == losses
    else:
        with pytest.raises(ContractError):
            Curve(rates, losses, "completed", 10.0, 0)


@pytest.mark.parametrize(("squared", "trace", "samples"), [(2.0, 8.0, 4.0), (0.0, 8.0, None), (-1.0, 8.0, None)])
def test_a_noise_scale_without_signal_is_none(squared: float, trace: float, samples: float | None) -> None:
    assert NoiseScale(squared, trace, 16, 32).samples == samples
