"""An advice as people read it: a header, a table of rules, facts that say what and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.advice.advice import Advice, Question, advise
from gpuplan.planning.advice.batch_ways import Machine
from gpuplan.reports.advise_text import advise_text, header, number
from gpuplan.reports.layout import Facts, Line, Table

A10G = Machine(instance="g5", gpu="A10G", gpus=4, memory_gib=22.35)


def asked(from_batch: int = 64, to_batch: int = 256, **more: object) -> Advice:
    return advise(
        Question.model_validate({"from_batch": from_batch, "to_batch": to_batch, "learning_rate": 0.1} | more)
    )


def parts(advice: Advice) -> tuple[Table, dict[str, str]]:
    """Return the table of rules, and the facts by label, those of one label as one text."""
    line, table, *_, facts = advise_text(advice)
    assert isinstance(line, Line)
    assert isinstance(table, Table)
    assert isinstance(facts, Facts)
    values: dict[str, str] = {}
    for label, value in facts.items:
        values[label] = f"{values[label]} {value}" if label in values else value
    return table, values


def test_the_header_names_the_change_and_the_machine() -> None:
    named = "gpuplan advise · batch 64 to 1,024 (x 16) · sgd · epochs fixed · g5 (4 x A10G)"
    assert header(asked(to_batch=1024, machine=A10G)) == named


def test_the_rule_that_counts_is_marked_and_every_row_fits_the_columns() -> None:
    table, _ = parts(asked(noise_scale=784.0))
    assert [row[0] for row in table.rows] == ["none", "sqrt *", "noise-scale", "linear"]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_an_unknown_rule_is_not_shown_as_a_number() -> None:
    table, facts = parts(asked())
    assert next(row for row in table.rows if row[0].startswith("noise-scale"))[1:3] == ("unknown", "")
    assert "gpuplan launch --pipeline lr" in facts["noise scale"]


def test_the_disagreement_of_the_sources_is_told_where_the_batch_changes() -> None:
    assert "Goyal" in parts(asked())[1]["disagreement"]
    assert "fixed steps" in parts(asked(fixed="steps"))[1]["disagreement"]
    assert "disagreement" not in parts(asked(64, 64))[1]


@pytest.mark.parametrize(("noise", "says"), [(10_000.0, "above both"), (100.0, "between"), (3.0, "below both batches")])
def test_a_noise_scale_is_set_against_the_batches(noise: float, says: str) -> None:
    assert says in parts(asked(noise_scale=noise))[1]["noise scale"]


def test_a_noise_scale_tells_what_more_gpus_take_and_without_one_there_is_no_such_table() -> None:
    table, facts = advise_text(asked(noise_scale=784.0))[2:4]
    assert isinstance(table, Table)
    assert table.columns == ("GPUs", "global batch", "steps", "examples")
    assert [row[:2] for row in table.rows] == [("1 *", "64"), ("2", "128"), ("4", "256"), ("8", "512")]
    assert isinstance(facts, Facts)
    assert "more GPUs" in dict(facts.items)
    assert len(advise_text(asked())) == 3


def test_a_warm_up_says_that_the_default_schedule_brings_one() -> None:
    text = parts(asked(to_batch=1024, epochs=90, samples=102_400))[1]["warm-up"]
    assert text.startswith("required at x 16, 5 epochs or 500 steps")
    assert "onecycle" in text
    assert "none needed" in parts(asked(64, 32))[1]["warm-up"]


def test_accumulation_tells_its_cost_and_its_limits_only_where_there_is_any() -> None:
    text = parts(asked(machine=Machine(gpus=1), per_gpu_batch=64))[1]
    assert text["batch"] == "64 x 1 GPU x 4 accumulated = 256"
    for said in ("1.5 to 2 x", "at most 16", "optimizer state stay", "no_sync", "BatchNorm sees one micro-batch"):
        assert said in text["accumulation"]
    assert "accumulation" not in parts(asked(machine=Machine(gpus=4)))[1]


def test_the_gpus_memory_says_where_to_start_and_the_plan_whether_it_fits() -> None:
    text = parts(asked(to_batch=1024, machine=A10G))[1]["batch"]
    assert text.startswith("128 x 4 GPUs x 2 accumulated = 1,024, or 64 x 4 GPUs x 4 accumulated = 1,024")
    assert "22.4 GiB start with up to 128 samples" in text
    assert "gpuplan plan" in text


def test_a_smaller_batch_is_told_how_to_keep_the_old_one() -> None:
    text = parts(asked(64, 16))[1]
    assert "accumulate: 16 x 1 GPU x 4 accumulated = 64" in text["batch"]
    assert "back down" in text["weight decay"]
    assert "76.0 %" not in text["accuracy"]


def test_a_larger_batch_is_told_what_it_cost_others() -> None:
    text = parts(asked())[1]["accuracy"]
    for said in ("76.0 % at 256", "74.8 % at 1,024", "72.0 % at 4,096", "8,192", "2 points"):
        assert said in text


def test_few_samples_a_gpu_are_told_what_to_use_instead_of_batchnorm() -> None:
    text = parts(asked(to_batch=32, machine=Machine(gpus=4), norm="batch"))[1]["BatchNorm"]
    assert "SyncBatchNorm" in text
    assert "GroupNorm" in text
    assert parts(asked(norm="layer"))[1]["BatchNorm"].startswith("the model has none")


def test_every_source_is_named_with_its_place() -> None:
    advice = asked(to_batch=16_384, optimizer="adamw", finetune=True)
    text = parts(advice)[1]["sources"]
    for source in advice.sources:
        assert f"{source.name} {source.where}" in text


@given(st.floats(1e-3, 1e5))
def test_a_number_is_what_it_was_to_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(("value", "text"), [(4.0, "4"), (0.25, "0.25"), (100.0, "100"), (1024.0, "1,024")])
def test_a_number_has_no_zeros_that_say_nothing(value: float, text: str) -> None:
    assert number(value) == text
