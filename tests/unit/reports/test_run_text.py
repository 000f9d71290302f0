"""A run as people read it: what was found, what was reached, why it failed, and commands that exist."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.cli.app import COMMANDS
from gpuplan.core.job_state import JobState
from gpuplan.core.units import usd
from gpuplan.engine.account import spent
from gpuplan.engine.run import Engine
from gpuplan.reports.decision_text import decision_facts
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.money_text import cost_text
from gpuplan.reports.run_text import run_text, runs_table
from gpuplan.store.events import CancelRequested, Planned, Resumed
from gpuplan.store.record import RunRecord, fold
from gpuplan_job.contract import Decision, OomRetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FakeClock, MakePlan, Recorder
    from gpuplan.store.sqlite import RunStore

    Drive = Callable[..., RunRecord]

RUN = "digits-0000000000001"
FOUND = Decision(
    verdict="ok",
    rule="edge",
    transfer="noise-scale",
    learning_rate=0.0512,
    band=(0.04, 0.0601),
    divergence_lr=1.25,
    noise_scale=64.0,
    multiplier=1.5,
    training_learning_rate=0.0768,
)


@pytest.fixture
def drive(store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path, make_plan: MakePlan) -> Drive:
    def run(values: dict[str, object] | None = None, script: Script | None = None) -> RunRecord:
        store.create(RUN, Planned(plan=make_plan(values)))
        return Engine(store, FakeBackend(tmp_path / "fake", script), clock, recorder).drive(RUN)

    return run


def parts(record: RunRecord, picture: Path | None = None) -> tuple[str, Table, dict[str, str]]:
    """Return the header, the table and the facts by label, the values of a label joined."""
    line, table, *facts = run_text(record, lambda handle, name: f"{handle}/{name}", picture)
    assert isinstance(line, Line)
    assert isinstance(table, Table)
    values: dict[str, str] = {}
    for block in facts:
        if isinstance(block, Table):
            assert block.columns[0] == "GPUs"
            continue
        assert isinstance(block, Facts)
        for label, value in block.items:
            values[label] = f"{values[label]} | {value}" if label in values else value
    return line.text, table, values


def commands(text: str) -> list[str]:
    return re.findall(r"gpuplan ([a-z]+)", text)


def test_a_finished_run_tells_what_it_found_and_reached(drive: Drive) -> None:
    line, table, facts = parts(drive(), Path("/home/somebody/curve.svg"))
    assert line == f"gpuplan run {RUN} · lr-then-train · local · fake · succeeded"
    assert [(row[0], row[2]) for row in table.rows] == [("lr-find", "succeeded"), ("train", "succeeded")]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert facts["val accuracy"].startswith("0.7500 in epoch 2 of 2 (loss 1.15, 360 samples")
    assert facts["checkpoint"] == f"fake://{RUN}-train-1/checkpoints/best.ckpt"
    assert facts["curve"] == "/home/somebody/curve.svg"
    assert "found LR" in facts
    assert "training LR" in facts
    assert "failed" not in facts


def test_a_training_that_ran_out_of_memory_once_says_with_what_it_went_on(drive: Drive) -> None:
    record = drive()
    assert record.train_result is not None
    retry = asdict(OomRetry(32, 16, 2, 1, "CUDA out of memory"))
    _, _, facts = parts(record.model_copy(update={"train_result": {**record.train_result, "oom_retry": retry}}))
    assert facts["memory"] == (
        "32 samples per GPU ran out of memory: trained with 16 x 2 x 2 = 64, BatchNorm over 16 samples"
    )
    assert "memory" not in parts(record)[2]


def test_whether_more_gpus_pay_is_a_table_until_the_training_is_over_then_a_sentence(
    drive: Drive, store: RunStore
) -> None:
    record = drive()
    log = store.events(RUN)
    advised = next(index for index, item in enumerate(log) if item.event.kind == "advised")
    moments = {end: fold(RUN, log[:end]) for end in (advised, advised + 1)} | {len(log): record}
    tables = [
        [block for block in run_text(moment, "{}/{}".format, None)[2:] if isinstance(block, Table)]
        for moment in moments.values()
    ]
    assert [len(found) for found in tables] == [0, 1, 0]
    (table,) = tables[1]
    assert [row[0].split()[0] for row in table.rows][:2] == ["1", "2"]
    assert "pay" in parts(record)[2]["more GPUs"]
    assert "64.0 samples" in parts(record)[2]["more GPUs"]


def test_a_warm_up_is_told_once_the_learning_rate_is_known(drive: Drive, store: RunStore) -> None:
    record = drive({"launch.world_size": 4, "workload.schedule": "constant"})
    assert parts(record)[2]["warm-up"].endswith("the batch grows 4 x; linear, from 0.25 x the learning rate")
    planned = fold(RUN, store.events(RUN)[:1])
    assert "warm-up" not in parts(planned)[2]


def test_a_given_learning_rate_is_told_as_given(drive: Drive) -> None:
    facts = parts(drive({"lr.learning_rate": 0.05}))[2]
    assert facts["training LR"] == "0.05, as given"
    assert "found LR" not in facts


def test_a_failed_run_tells_what_why_and_what_to_do(drive: Drive) -> None:
    line, _, facts = parts(drive(script=Script(states=(JobState.FAILED,))))
    assert line.endswith("· failed")
    assert facts["failed"].startswith("lr-find failed")
    assert facts["why"]
    assert f"gpuplan resume {RUN}" in facts["fix"] + facts["next"]


def test_at_every_moment_the_next_commands_exist_and_name_the_run(drive: Drive, store: RunStore) -> None:
    drive(script=Script(states=(JobState.FAILED,)))
    store.append(RUN, Resumed())
    store.append(RUN, CancelRequested())
    log = store.events(RUN)
    for end in range(1, len(log) + 1):
        facts = parts(fold(RUN, log[:end]))[2]
        assert commands(facts["next"])
        assert set(commands(facts["next"] + facts.get("fix", ""))) <= COMMANDS.keys()
        assert RUN in facts["next"]


def test_a_run_that_is_open_can_be_watched_and_cancelled(store: RunStore, make_plan: MakePlan) -> None:
    store.create(RUN, Planned(plan=make_plan()))
    _, table, facts = parts(store.record(RUN))
    assert {"watch", "cancel"} <= set(commands(facts["next"]))
    assert [row[2] for row in table.rows] == ["waiting", "waiting"]


def test_the_measured_estimate_is_told_while_it_matters(drive: Drive, store: RunStore) -> None:
    drive({"launch.instance": "g5"})
    log = store.events(RUN)
    replanned = next(place for place, stored in enumerate(log) if stored.event.kind == "replanned")
    assert "with the measured step time" in parts(fold(RUN, log[: replanned + 1]))[2]["re-planned"]
    assert "re-planned" not in parts(fold(RUN, log))[2]


def test_a_price_that_is_not_known_is_said(drive: Drive) -> None:
    paid: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
    table = parts(drive(paid | {"aws.region": "nowhere-1"}))[1]
    assert [row[table.columns.index("cost")] for row in table.rows] == ["unknown"] * 3, "the total too"
    assert "unknown" in table.rows[-1][-1]


def test_every_attempt_has_a_row_and_jobs_that_aws_bills_have_what_was_planned_and_a_total(
    drive: Drive, store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path
) -> None:
    drive(
        {"launch.instance": "g5", "launch.backend": "sagemaker"},
        Script(states=(JobState.RUNNING, JobState.FAILED)),
    )
    store.append(RUN, Resumed())
    record = Engine(store, FakeBackend(tmp_path / "fake"), clock, recorder).drive(RUN)
    table = parts(record)[1]
    assert {len(row) for row in table.rows} == {len(table.columns)} == {6}
    assert [(row[0], row[1], row[2]) for row in table.rows] == [
        ("lr-find", "1", "failed"),
        ("lr-find", "2", "succeeded"),
        ("train", "1", "succeeded"),
        ("total", "", ""),
    ]
    planned = [cost_text(step.cost_usd) for step in record.plan.steps]
    assert [row[5] for row in table.rows] == [planned[0], "", planned[1], cost_text(record.plan.total.cost_usd)]
    total = spent(record)
    assert isinstance(total, Decimal)
    assert total > 0
    assert table.rows[-1][4] == usd(total)


def test_a_decision_is_told_with_its_rule_its_band_and_its_arithmetic() -> None:
    facts = dict(decision_facts(FOUND))
    for part in ("0.0512 on 1 GPU", "rule edge", "0.04 .. 0.0601", "diverges at 1.25"):
        assert part in facts["found LR"]
    for part in ("0.0768 = found LR x 1.50", "noise-scale", "64.0 samples"):
        assert part in facts["training LR"]


def test_a_note_of_the_transfer_policy_is_told() -> None:
    facts = list(decision_facts(replace(FOUND, note="the square root was used")))
    assert facts[-1] == ("", "the square root was used")


def test_without_a_suggestion_the_reason_is_told_and_no_number() -> None:
    none = Decision(verdict="flat", rule="edge", transfer="none", reason="the loss does not fall", fix="--runs 5")
    [(label, text)] = decision_facts(none)
    assert label == "learning rate"
    assert "flat" in text
    assert "the loss does not fall" in text


def test_a_sweep_that_never_diverged_says_nothing_of_it() -> None:
    facts = dict(decision_facts(replace(FOUND, divergence_lr=None)))
    assert "diverges" not in facts["found LR"]


def test_runs_are_listed_one_a_row(drive: Drive, store: RunStore, make_plan: MakePlan) -> None:
    store.create("other-0000000000002", Planned(plan=make_plan({"launch.pipeline": "lr"})))
    table = runs_table([drive(), store.record("other-0000000000002")])
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[:4] for row in table.rows] == [
        (RUN, "lr-then-train", "local", "succeeded"),
        ("other-0000000000002", "lr", "local", "planned"),
    ]
    assert re.fullmatch(r"2026-11-22 00:00 UTC", table.rows[0][4])
    assert [row[5] for row in table.rows] == ["0.7500", ""]
