"""A decision as people and scripts read it: what other policies would give, the check, the warning, other batches."""

from __future__ import annotations

from dataclasses import replace

from gpuplan.reports.decision_text import (
    comparison_blocks,
    comparison_document,
    decision_document,
    decision_facts,
)
from gpuplan_job.batch_comparison import AtBatch, Comparison
from gpuplan_job.contract import Decision

FOUND = Decision(
    "ok",
    "edge",
    "noise-scale",
    learning_rate=0.05,
    band=(0.04, 0.06),
    divergence_lr=1.25,
    noise_scale=64.0,
    multiplier=2.0,
    training_learning_rate=0.1,
    by_policy={"linear": 0.4, "noise-scale": 0.1, "none": 0.05, "sqrt": 0.14},
)
CHECKED = replace(FOUND, checked_learning_rate=0.04, warning="noise-scale carries to 0.1, the check gives 0.04")
ROWS = (
    AtBatch(32, "ok", 0.04, (0.03, 0.05), 2.0, ""),
    AtBatch(64, "flat", None, None, None, "the loss does not fall"),
    AtBatch(128, "ok", 0.06, (0.05, 0.07), None, ""),
)


def test_every_other_policy_is_told_with_what_it_would_give() -> None:
    told = dict(decision_facts(FOUND))["other policies"]
    assert told == "linear 0.4, none 0.05, sqrt 0.14"


def test_where_the_batch_stays_the_policies_are_one_and_nothing_is_said_of_them() -> None:
    same = replace(FOUND, multiplier=1.0, training_learning_rate=0.05, by_policy=dict.fromkeys(FOUND.by_policy, 0.05))
    assert "other policies" not in dict(decision_facts(same))


def test_a_check_is_told_with_how_far_the_training_is_from_it_and_the_warning_stands_last() -> None:
    facts = list(decision_facts(CHECKED))
    assert dict(facts)["check"].startswith("0.04 by sweeps at the training's own batch; the training LR is 2.50 x")
    assert facts[-1] == ("warning", CHECKED.warning)
    assert {"check", "warning"}.isdisjoint(dict(decision_facts(FOUND)))


def test_scripts_get_the_same() -> None:
    document = decision_document(CHECKED)
    assert document["by_policy"] == FOUND.by_policy
    assert (document["check"], document["warning"]) == (0.04, CHECKED.warning)
    assert "unknown" in decision_document(FOUND)["check"]
    assert decision_document(FOUND)["warning"] == ""


def test_batches_stand_one_a_row_with_their_reason_where_they_have_no_learning_rate() -> None:
    table, (label, told) = comparison_blocks(Comparison(ROWS, 1.5))
    assert table.rows == (
        ("32", "ok", "0.04", "0.03 .. 0.05", "2"),
        ("64", "flat", "", "the loss does not fall", ""),
        ("128", "ok", "0.06", "0.05 .. 0.07", ""),
    )
    assert (label, told) == ("spread", "largest learning rate 1.50 x the smallest, over 2 batches")


def test_a_spread_that_is_not_known_says_why() -> None:
    _, (_, told) = comparison_blocks(Comparison(ROWS[:2], None))
    assert told == "unknown: 1 of 2 batches gave a learning rate"
    assert "unknown" in comparison_document(Comparison(ROWS[:2], None))["spread"]


def test_compared_batches_have_no_nulls_for_scripts() -> None:
    document = comparison_document(Comparison(ROWS, 1.5))
    assert document["spread"] == 1.5
    assert document["batches"][1] == {
        "global": 64,
        "verdict": "flat",
        "learning_rate": {"unknown": "the loss does not fall"},
        "band": {"unknown": "the loss does not fall"},
        "divergence_lr": {"unknown": "no sweep diverged"},
    }
    assert document["batches"][0]["band"] == [0.03, 0.05]
