"""A plan as people read it: one header, one table, aligned facts, and commands that can be pasted."""

from __future__ import annotations

import re
import shlex
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli.app import COMMANDS
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import duration, usd
from gpuplan.planning.money.cost import Cost, beside_instance
from gpuplan.planning.plan import TotalCost
from gpuplan.planning.speed.throughput import Hours
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.money_text import cost_text
from gpuplan.reports.plan_text import header, hours_text, next_commands, plan_text

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan

TODAY = date(2026, 11, 22)
G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}


def parts(plan: LaunchPlan, today: date = TODAY) -> tuple[str, Table, dict[str, list[str]]]:
    """Return the header, the table and the facts by label."""
    line, table, facts = plan_text(plan, today)
    assert isinstance(line, Line)
    assert isinstance(table, Table)
    assert isinstance(facts, Facts)
    values: dict[str, list[str]] = {}
    for label, value in facts.items:
        values.setdefault(label, []).append(value)
    return line.text, table, values


def test_the_header_names_plan_pipeline_machine_and_place(make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    named = f"gpuplan plan {plan.plan_id[:10]} · lr-then-train · g5.12xlarge (4 x A10G) · sagemaker us-east-1"
    assert parts(plan)[0] == header(plan) == named


def test_this_machine_has_no_region(make_plan: MakePlan) -> None:
    assert header(make_plan(G5 | {"launch.backend": "fake"})).endswith("· fake")


def test_there_is_a_row_a_step_a_total_and_the_most_it_can_be_that_fit_the_columns(make_plan: MakePlan) -> None:
    _, table, _ = parts(make_plan(G5))
    assert [row[0] for row in table.rows] == ["lr-find", "train", "total", "at most"]
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_batch_is_shown_as_the_product_it_is(make_plan: MakePlan) -> None:
    _, table, _ = parts(make_plan(G5 | {"workload.accumulate": 2}))
    assert [row[3] for row in table.rows] == ["64 x 1 x 1 = 64", "64 x 4 x 2 = 512", "", ""]


@pytest.mark.parametrize(("batch", "verdict"), [(64, "ok"), (450, "TIGHT"), (2048, "TOO BIG")])
def test_memory_is_shown_with_its_limit_and_a_verdict_in_words(make_plan: MakePlan, batch: int, verdict: str) -> None:
    plan = make_plan(
        {
            "launch.instance": "p4d",
            "workload.model": "resnet152",
            "workload.data": "fake:3x224x224:1000:1000000",
            "workload.per_gpu_batch": batch,
        }
    )
    assert re.fullmatch(rf"[\d,.]+ of 40\.0 GiB  {verdict}", parts(plan)[1].rows[-2][4])


def test_what_is_not_known_is_said_never_zero(make_plan: MakePlan) -> None:
    _, table, facts = parts(make_plan(G5 | {"aws.region": "nowhere-1"}))
    assert [row[-1] for row in table.rows] == ["unknown"] * 3
    assert all("unknown" in line for line in facts["prices"])
    assert "$" not in " ".join(facts["prices"])


def test_several_nodes_are_shown_with_their_number(make_plan: MakePlan) -> None:
    line, table, _ = parts(make_plan(G5 | {"launch.nodes": 2, "workload.per_gpu_batch": 16}))
    assert "2 x g5.12xlarge (8 x A10G)" in line
    assert [row[1] for row in table.rows] == ["ml.g5.xlarge", "2 x ml.g5.12xlarge", "", ""]
    assert [row[2] for row in table.rows] == ["1", "8", "", ""]
    assert table.rows[1][3] == "16 x 8 x 1 = 128"


def test_what_aws_bills_is_shown_with_its_limits_and_the_most_it_can_cost(make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    _, table, facts = parts(plan)
    assert isinstance(plan.total.cost_usd, TotalCost)
    assert isinstance(plan.total.cost_usd.worst_case, Decimal)
    [limits] = facts["limits"]
    beside, _ = beside_instance(charge for step in plan.steps for charge in step.charges)
    hours = 0.0
    for step in plan.steps:
        assert step.limits is not None
        hours += step.limits.max_runtime_seconds / 3600
        assert f"{step.name} {duration(step.limits.max_runtime_seconds / 3600)}" in limits
    assert table.rows[-1] == (
        "at most",
        "",
        "",
        "",
        "",
        duration(hours),
        usd(plan.total.cost_usd.worst_case + beside.p90),
    )
    assert "--max-cost" not in limits


def test_limits_that_come_from_a_budget_say_so(make_plan: MakePlan) -> None:
    _, table, facts = parts(make_plan(G5 | {"launch.max_cost": Decimal(9)}))
    assert facts["limits"][0].endswith("within --max-cost $9.00")
    assert (table.rows[-1][0], table.rows[-1][-1]) == ("at most", "$9.00")


def test_where_nothing_is_limited_nothing_is_said_of_limits(make_plan: MakePlan) -> None:
    _, table, facts = parts(make_plan())
    assert "limits" not in facts
    assert table.rows[-1][0] == "total"


def test_the_way_to_the_learning_rate_is_told(make_plan: MakePlan) -> None:
    found = parts(make_plan(G5))[2]["learning rate"][0]
    for part in ("3 sweeps of 100 steps", "rule: normalised", "from batch 64 to 256", "sqrt"):
        assert part in found
    assert parts(make_plan(G5 | {"lr.learning_rate": 0.05}))[2]["learning rate"] == ["0.05, as given"]


def test_the_workload_is_told_with_separators_and_units(make_plan: MakePlan) -> None:
    workload = parts(make_plan(G5 | {"workload.data": "imagenet", "workload.model": "resnet50"}))[2]["workload"][0]
    for part in ("resnet50 on imagenet", "1,281,167 + 50,000 samples of 224 px", "1000 classes", "2 epochs", "sgd"):
        assert part in workload


def test_every_warning_is_a_note_with_its_way_out(make_plan: MakePlan) -> None:
    plan = make_plan({"launch.instance": "p3", "launch.backend": "sagemaker", "workload.per_gpu_batch": 8})
    notes = parts(plan)[2]["note"]
    assert len(notes) == len(plan.warnings) > 1
    for note, warning in zip(notes, plan.warnings, strict=True):
        assert warning.message in note
        assert warning.fix in note or warning.fix == "none needed"


def test_a_plan_without_a_training_has_no_steps_an_epoch(make_plan: MakePlan) -> None:
    _, table, facts = parts(make_plan(G5 | {"launch.pipeline": "lr"}))
    assert [row[0] for row in table.rows] == ["lr-find", "total", "at most"]
    assert "steps" not in facts
    assert "bound" not in facts


def test_what_is_not_known_is_one_word_in_the_table_and_has_its_reason_below(make_plan: MakePlan) -> None:
    _, table, facts = parts(make_plan(G5 | {"workload.image_size": 1, "workload.model": "vgg16"}))
    assert [row[4:] for row in table.rows[:2]] == [("unknown", "unknown", "unknown")] * 2
    [reason] = facts["unknown"]
    assert reason.startswith("memory and time: ")
    assert "vgg16" in reason


def test_hours_and_dollars_stand_with_their_p90_or_as_unknown() -> None:
    unknown = Unknown(unknown="the model")
    assert hours_text(Hours(p50=14 / 60, p90=21 / 60)) == "14 min (21 min)"
    assert hours_text(unknown) == "unknown: the model"
    assert cost_text(Cost(p50=Decimal("0.333"), p90=Decimal("0.485"))) == "$0.33 ($0.49)"
    assert cost_text(unknown) == "unknown"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--instance", "g5"], ["--data", "imagefolder:/my photos/$HOME", "--epochs", "3"]],
    ids=" ".join,
)
def test_next_commands_can_be_pasted_into_a_shell(arguments: list[str]) -> None:
    items = next_commands(arguments).items
    launch, plan = (command for _, text in items for command in re.split(r" {6}", text))
    assert {label for label, _ in items} == {"next"}
    assert shlex.split(launch) == ["gpuplan", "launch", *arguments]
    assert shlex.split(plan) == ["gpuplan", "plan", *arguments, "--out", "plan.json"]
    assert {"launch", "plan"} <= COMMANDS.keys()


def test_how_data_on_s3_reach_the_steps_is_said_and_of_other_data_nothing(make_plan: MakePlan) -> None:
    _, _, facts = parts(make_plan(G5 | {"workload.data": "imagenet", "workload.model": "resnet50"}))
    assert facts["data"] == ["lr-find opens what it needs on S3; train gets all 146 GB copied from S3 first, billed"]
    assert "data" not in parts(make_plan(G5))[2]
