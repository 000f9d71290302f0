"""What a user says of the stack becomes the template's parameters, or is refused with the way to say it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws.stack_parameters import ALL, assignments, budget, instance_types, max_runtime_seconds
from gpuplan.core.errors import UsageError
from gpuplan.profiles import load
from gpuplan.profiles.schema import InstanceProfile

if TYPE_CHECKING:
    from conftest import MakePlan


SINGLE = {"ml.g4dn.xlarge", "ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.xlarge", "ml.p5.4xlarge"}
"""Where any profile's learning rate may be found."""


@pytest.mark.parametrize(
    ("said", "types"),
    [
        ("g5", SINGLE | {"ml.g5.12xlarge"}),
        ("ml.g5.12xlarge", SINGLE | {"ml.g5.12xlarge"}),
        (" G5 , p4d.24xlarge,", SINGLE | {"ml.g5.12xlarge", "ml.p4d.24xlarge"}),
        ("ml.g5.2xlarge,ml.trn1.2xlarge", {"ml.g5.2xlarge", "ml.trn1.2xlarge"}),
        ("p3", SINGLE | {"ml.p3.16xlarge", "ml.p3.2xlarge"}),
    ],
)
def test_a_profile_stands_for_where_it_trains_and_where_its_learning_rate_may_be_found(
    said: str, types: set[str]
) -> None:
    assert instance_types(said) == ",".join(sorted(types))


def test_every_instance_on_which_a_plan_puts_lr_find_is_among_the_types(make_plan: MakePlan) -> None:
    for profile in load.load_all():
        if isinstance(profile, InstanceProfile):
            plan = make_plan(
                {"launch.instance": profile.name, "launch.backend": "sagemaker", "workload.data": "imagenet"}
            )
            assert {step.instance_type for step in plan.steps} <= set(instance_types(profile.name).split(","))


def test_all_is_every_profile_that_is_not_retired() -> None:
    types = set(instance_types(ALL).split(","))
    for profile in load.load_all():
        if isinstance(profile, InstanceProfile):
            assert (f"ml.{profile.train.instance_type}" in types) == (profile.lifecycle.state != "retired")
            assert (f"ml.{profile.finder.instance_type}" in types) or profile.lifecycle.state == "retired"


@pytest.mark.parametrize("said", ["", ",", "local", "g55", "ml.", "t3.large", "ml.g5.*"])
def test_what_is_no_type_is_refused(said: str) -> None:
    with pytest.raises(UsageError) as raised:
        instance_types(said)
    assert raised.value.fix


@given(hours=st.floats(min_value=1 / 60, max_value=28 * 24))
def test_hours_become_whole_seconds_and_never_more(hours: float) -> None:
    seconds = int(max_runtime_seconds(hours))
    assert seconds <= hours * 3600 < seconds + 1


@pytest.mark.parametrize("hours", [0, -1, 0.01, 672.1, float("nan"), float("inf")])
def test_a_time_sagemaker_does_not_take_is_refused(hours: float) -> None:
    with pytest.raises(UsageError, match="--max-runtime-hours"):
        max_runtime_seconds(hours)


def test_a_budget_needs_somebody_to_warn_and_zero_takes_it_away() -> None:
    assert budget(Decimal("500.50"), "a@b.c") == {"BudgetUSD": "500.50", "BudgetEmail": "a@b.c"}
    assert budget(Decimal("1E+3"), "a@b.c")["BudgetUSD"] == "1000"
    assert budget(Decimal("0.00"), None) == {"BudgetUSD": "0", "BudgetEmail": ""}
    with pytest.raises(UsageError, match="--budget-email"):
        budget(Decimal(500), None)


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(UsageError, match="must be an amount"):
        budget(Decimal(amount), "a@b.c")


def test_assignments_join_what_options_set_and_contradict_nothing() -> None:
    given = ("KmsKeyArn=", "CheckpointDays=90", "BudgetEmail=a=b@c")
    assert assignments(given, {"Prefix": "p"}) == {
        "Prefix": "p",
        "KmsKeyArn": "",
        "CheckpointDays": "90",
        "BudgetEmail": "a=b@c",
    }
    for wrong in ("CheckpointDays", "=1", "Prefix=q"):
        with pytest.raises(UsageError):
            assignments((wrong,), {"Prefix": "p"})
