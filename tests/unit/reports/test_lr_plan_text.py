"""How a plan says where its learning rate comes from: rule, policy and why that one, and whether it is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.reports.lr_plan_text import lr_facts

if TYPE_CHECKING:
    from conftest import MakePlan

G5: dict[str, object] = {"launch.instance": "g5", "workload.per_gpu_batch": 64}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "sqrt: the default where the epochs are fixed; check off (--lr-check "),
        ({"lr.fixed": "steps"}, "none: the default where the steps are fixed; check off (--lr-check "),
        ({"lr.transfer": "sqrt"}, "sqrt: as given; check off (--lr-check "),
        ({"lr.check": True}, "sqrt: the default where the epochs are fixed; check on, 2 sweeps of "),
        ({"lr.transfer": "accumulate"}, "accumulate: as given; check on, 2 sweeps of "),
    ],
    ids=str,
)
def test_the_policy_is_told_with_its_reason_and_whether_it_is_checked(
    make_plan: MakePlan, given: dict[str, object], told: str
) -> None:
    plan = make_plan(G5 | given)
    facts = dict(lr_facts(plan))
    assert facts["carried by"].startswith(told)
    assert "from batch 64 to 256" in facts["learning rate"]
    if plan.lr.check:
        assert facts["carried by"].endswith("at batch 256, 4 x 64 accumulated")
    document = plan.document()["lr"]
    assert document["transfer"] == facts["carried by"].partition(":")[0]
    assert document["transfer_why"] in facts["carried by"]
    assert document["check"] is ("check on" in facts["carried by"])
    assert document["fixed"] == given.get("lr.fixed", "epochs")


def test_where_the_batch_stays_nothing_is_carried(make_plan: MakePlan) -> None:
    facts = dict(lr_facts(make_plan(G5 | {"launch.world_size": 1})))
    assert facts["learning rate"].endswith("used as it is: the batch stays 64")
    assert "carried by" not in facts


def test_batches_to_compare_are_told(make_plan: MakePlan) -> None:
    facts = dict(lr_facts(make_plan(G5 | {"lr.compare_batches": (32, 64, 128), "lr.iterations": 50})))
    assert facts["compared"] == "batches 32, 128 beside 64: 3 sweeps of 50 steps at each"


def test_a_learning_rate_that_was_given_is_told_alone(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"lr.learning_rate": 0.05})
    assert dict(lr_facts(plan)) == {"learning rate": "0.05, as given"}
