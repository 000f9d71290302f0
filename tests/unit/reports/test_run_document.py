"""A run as a document for scripts: the promised keys at every moment of its life, and no null, no zero, no guess."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.core.job_state import JobState
from gpuplan.engine.run import Engine
from gpuplan.reports.run_document import run_document
from gpuplan.store.events import CancelRequested, Observed, Planned, Resumed
from gpuplan.store.record import RunRecord, fold
from gpuplan_job.contract import Decision, OomRetry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FakeClock, MakePlan, Recorder
    from gpuplan.store.sqlite import RunStore

    Drive = Callable[..., RunRecord]

RUN = "digits-0000000000001"
ISO_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
STEP_KEYS = {"name", "state", "handle", "attempt", "started_at", "ended_at", "cost_usd", "planned_cost_usd", "attempts"}
PAID: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}


def locate(handle: str, name: str) -> str:
    return f"{handle}/{name}"


@pytest.fixture
def drive(store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path, make_plan: MakePlan) -> Drive:
    """Plan and run to the end, on the fake backend whatever the plan says."""

    def run(values: dict[str, object] | None = None, script: Script | None = None) -> RunRecord:
        store.create(RUN, Planned(plan=make_plan(values)))
        return Engine(store, FakeBackend(tmp_path / "fake", script), clock, recorder).drive(RUN)

    return run


def document(record: RunRecord) -> dict[str, Any]:
    """Return the document as a script reads it."""
    read: dict[str, Any] = json.loads(json.dumps(run_document(record, locate), allow_nan=False))
    return read


def nulls(value: object, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for key, below in value.items() for found in nulls(below, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for below in value for found in nulls(below, path)]
    return [path] if value is None else []


def moments(store: RunStore) -> list[RunRecord]:
    """Return the record as it stood after each event."""
    log = store.events(RUN)
    return [fold(RUN, log[: end + 1]) for end in range(len(log))]


def test_a_finished_run_has_all_that_was_promised(drive: Drive) -> None:
    found = document(drive())
    assert found["schema"] == "gpuplan.run/1"
    assert (found["state"], found["exit_code"]) == ("succeeded", 0)
    assert [step["name"] for step in found["steps"]] == ["lr-find", "train"]
    assert {"learning_rate", "band", "rule", "verdict", "divergence_lr"} <= found["lr"]["suggestion"].keys()
    assert {"noise_scale", "transfer", "multiplier", "training_learning_rate"} <= found["lr"].keys()
    assert {"peak_gib", "step_seconds", "samples_per_second"} <= found["measured"].keys()
    assert {"metrics", "epochs", "checkpoint", "samples_per_second"} <= found["train"].keys()
    assert {"val_loss", "val_accuracy"} <= found["train"]["metrics"].keys()


def test_the_figures_are_those_of_the_results(drive: Drive) -> None:
    record = drive()
    found, decision, trained = document(record), record.decision, record.trained()
    assert decision is not None
    assert trained is not None
    assert found["plan_id"] == record.plan.plan_id
    assert found["lr"]["suggestion"]["learning_rate"] == decision.learning_rate
    assert found["lr"]["training_learning_rate"] == found["train"]["learning_rate"] == trained.learning_rate
    assert found["train"]["metrics"]["val_accuracy"] == trained.epochs[-1].val_accuracy
    assert found["train"]["checkpoint"] == f"fake://{RUN}-train-1/checkpoints/best.ckpt"


def test_a_retry_after_memory_ran_out_is_there_for_scripts(drive: Drive) -> None:
    record = drive()
    assert record.train_result is not None
    assert "oom_retry" not in document(record)["train"]
    retry = asdict(OomRetry(32, 16, 2, 1, "CUDA out of memory"))
    found = document(record.model_copy(update={"train_result": {**record.train_result, "oom_retry": retry}}))
    assert found["train"]["oom_retry"] == {
        "per_gpu": 16,
        "accumulation": 2,
        "planned_per_gpu": 32,
        "message": "CUDA out of memory",
    }


def test_whether_more_gpus_pay_and_the_warm_up_are_there_for_scripts(drive: Drive) -> None:
    found = document(drive())
    advice = found["critical_batch"]
    assert advice["pays_up_to"] in [row["gpus"] for row in advice["rows"]]
    for row in advice["rows"]:
        assert {"steps", "examples", "time_hours", "cost_usd", "time_factor", "cost_factor"} <= row.keys()
    assert {"steps", "epochs", "why"} <= found["lr"]["warmup"].keys()


def test_both_steps_tell_the_same_per_gpu_batch(drive: Drive) -> None:
    batch = document(drive())["batch"]
    assert batch["lr_find"]["per_gpu"] == batch["train"]["per_gpu"] == 32
    assert batch["train"]["global"] == 32 * 2


def test_at_every_moment_nothing_is_null(drive: Drive, store: RunStore) -> None:
    drive()
    for record in moments(store):
        assert nulls(document(record)) == []


def test_at_every_moment_every_step_has_all_its_keys(drive: Drive, store: RunStore) -> None:
    drive()
    for record in moments(store):
        for step in document(record)["steps"]:
            assert step.keys() == STEP_KEYS


def test_the_exit_code_is_unknown_until_the_run_is_over(drive: Drive, store: RunStore) -> None:
    drive()
    codes = [document(record)["exit_code"] for record in moments(store)]
    assert codes[-1] == 0
    assert all(code == {"unknown": "the run is not over"} for code in codes[:-1])


def test_a_command_may_tell_another_exit_code(drive: Drive) -> None:
    assert run_document(drive(), locate, 130)["exit_code"] == 130


def test_times_are_utc_in_iso_8601_and_in_order(drive: Drive) -> None:
    steps = document(drive())["steps"]
    times = [step[key] for step in steps for key in ("started_at", "ended_at")]
    assert all(ISO_UTC.fullmatch(time) for time in times)
    assert times == sorted(times)


def test_every_attempt_is_told_the_newest_also_beside_it(
    drive: Drive, store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path
) -> None:
    drive(script=Script(states=(JobState.FAILED,)))
    store.append(RUN, Resumed())
    found = document(Engine(store, FakeBackend(tmp_path / "fake"), clock, recorder).drive(RUN))["steps"][0]
    first, second = found["attempts"]
    assert [(one["attempt"], one["state"]) for one in (first, second)] == [(1, "failed"), (2, "succeeded")]
    assert first["handle"] != second["handle"]
    assert {key: found[key] for key in second if key != "state"} == {k: v for k, v in second.items() if k != "state"}


def test_what_was_planned_stands_beside_what_it_cost(drive: Drive) -> None:
    for step in document(drive(PAID))["steps"]:
        assert step["planned_cost_usd"].keys() == {"p50", "p90"}
        assert all(re.fullmatch(r"\d+\.\d{4}", amount) for amount in step["planned_cost_usd"].values())


def test_what_the_service_billed_is_told_where_it_said_so(drive: Drive, store: RunStore) -> None:
    billed = Observed(step="train", attempt=1, state=JobState.STOPPED, billable_seconds=1234)
    assert "billable_seconds" not in json.dumps(document(drive()))
    store.append(RUN, billed)
    step = document(store.record(RUN))["steps"][1]
    assert step["billable_seconds"] == step["attempts"][0]["billable_seconds"] == 1234


def test_money_is_decimal_text_with_four_places(drive: Drive) -> None:
    costs = [step["cost_usd"] for step in document(drive(PAID))["steps"]]
    assert all(re.fullmatch(r"\d+\.\d{4}", cost) for cost in costs)


def test_a_price_that_is_not_known_is_an_unknown_with_its_reason(drive: Drive) -> None:
    for step in document(drive(PAID | {"aws.region": "nowhere-1"}))["steps"]:
        assert "nowhere-1" in step["cost_usd"]["unknown"]


def test_a_given_learning_rate_is_told_as_given(drive: Drive) -> None:
    found = document(drive({"lr.learning_rate": 0.05}))
    assert found["lr"].pop("warmup")["steps"] == 0
    assert found["lr"] == {"training_learning_rate": 0.05, "transfer": "none", "given": True}
    assert "measured" not in found


def test_a_failure_says_where_what_why_and_what_next(drive: Drive) -> None:
    found = document(drive(script=Script(states=(JobState.RUNNING, JobState.FAILED))))
    assert (found["state"], found["exit_code"]) == ("failed", 7)
    assert found["failure"]["step"] == "lr-find"
    assert all(found["failure"][key] for key in ("what", "why", "fix"))
    assert "train" not in found


def test_a_failure_is_gone_once_the_run_was_resumed_and_ended_well(
    drive: Drive, store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path
) -> None:
    drive(script=Script(states=(JobState.FAILED,)))
    store.append(RUN, Resumed())
    found = document(Engine(store, FakeBackend(tmp_path / "fake"), clock, recorder).drive(RUN))
    assert "failure" not in found
    assert [step["attempt"] for step in found["steps"]] == [2, 1]


def test_a_range_test_without_signal_has_a_reason_and_no_learning_rate(drive: Drive) -> None:
    record = drive()
    assert record.decision is not None
    flat = Decision(verdict="flat", rule="edge", transfer="noise-scale", reason="no fall", fix="--runs 5")
    found = document(record.model_copy(update={"decision": flat}))
    assert nulls(found) == []
    assert found["lr"]["suggestion"]["verdict"] == "flat"
    assert found["lr"]["suggestion"]["reason"] == "no fall"
    assert "learning_rate" not in found["lr"]["suggestion"]
    assert "training_learning_rate" not in found["lr"]
    assert "unknown" in found["lr"]["noise_scale"]


def test_a_run_that_is_being_cancelled_says_so_and_is_not_over(store: RunStore, make_plan: MakePlan) -> None:
    store.create(RUN, Planned(plan=make_plan()))
    store.append(RUN, CancelRequested())
    found = document(store.record(RUN))
    assert found["state"] == "cancelling"
    assert "unknown" in found["exit_code"]


def test_logs_are_named_only_where_a_training_wrote_them(drive: Drive) -> None:
    assert document(drive())["train"]["logs"].endswith("/logs")


def test_a_training_without_loggers_has_no_logs_and_says_why(drive: Drive) -> None:
    assert document(drive({"launch.loggers": ()}))["train"]["logs"] == {"unknown": "it was trained without loggers"}
