"""A run whose batch is looked for: planned again at what was found, once, within budget, whatever dies in between."""

from __future__ import annotations

import json
import signal
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from engine.test_crash import gpuplan
from gpuplan.backends.fake import FakeBackend, Script, synthetic_results
from gpuplan.cli.driving import at_found_batch
from gpuplan.cli.own_code import shelve
from gpuplan.core.errors import ExitCode, StoreError
from gpuplan.engine.run import Engine
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.store.events import PlannedAgain, Resumed
from gpuplan_job.contract import BATCH_RESULT_FILE, JobInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakePlan
    from engine.conftest import Bench
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord

BATCH: dict[str, object] = {"launch.pipeline": "batch-then-lr-then-train"}
G5 = BATCH | {"launch.instance": "g5", "launch.backend": "sagemaker", "workload.epochs": 20}
FOUND = 24
"""What the fake device of 1 GiB takes: a quarter and 0.02 GiB a sample, four fifths of it."""


def drive(bench: Bench, script: Script | None = None) -> RunRecord:
    engine = Engine(bench.store, bench.backend(script), bench.clock, bench.recorder, at_found_batch)
    return engine.drive(bench.run)


def changed(change: Callable[[dict[str, object]], object]) -> Script:
    def results(job: JobInput) -> dict[str, bytes]:
        files = synthetic_results(job)
        if BATCH_RESULT_FILE in files:
            document = json.loads(files[BATCH_RESULT_FILE])
            change(document)
            files[BATCH_RESULT_FILE] = json.dumps(document).encode()
        return files

    return Script(results=results)


def limited(plan: LaunchPlan, limit: Decimal) -> LaunchPlan:
    launch = plan.provenance.settings.launch.model_copy(update={"max_cost": limit})
    settings = plan.provenance.settings.model_copy(update={"launch": launch})
    return plan.model_copy(update={"provenance": plan.provenance.model_copy(update={"settings": settings})})


def test_the_found_batch_is_that_of_lr_find_and_of_the_training(bench: Bench, make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    bench.start(plan)
    record = drive(bench)
    assert record.state == "succeeded"
    assert plan.find_batch is not None
    assert plan.find_batch.found is None
    assert plan.batch.train.per_gpu == plan.find_batch.predicted != FOUND
    found, measured, again = record.batch_found(), record.measured(), record.plan
    assert found is not None
    assert measured is not None
    assert found.chosen == FOUND == measured.batch.per_gpu == again.batch.train.per_gpu == again.batch.lr_find.per_gpu
    train, before = again.step("train"), plan.step("train")
    assert train is not None
    assert before is not None
    assert train.optimizer_steps > before.optimizer_steps, "a smaller batch takes more steps"
    assert measured.sweep.target.global_batch == 4 * FOUND
    assert record.agreed_plan_id == plan.plan_id != again.plan_id
    assert again.step("find-batch") == plan.step("find-batch"), "what has run stays what was agreed"


def test_the_measured_memory_replaces_the_estimate(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(G5))
    record = drive(bench)
    step, told, found = record.plan.step("train"), record.plan.find_batch, record.batch_found()
    assert step is not None
    assert told is not None
    assert found is not None
    assert isinstance(step.memory, MemoryEstimate)
    assert step.memory.peak_gib == pytest.approx(found.measured.peak_gib, rel=0.01)
    assert isinstance(told.estimated_peak_gib, float), "the estimate stays, to be held against the measurement"


def test_planning_again_happens_once_and_a_finished_run_is_left_alone(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(BATCH))
    drive(bench)
    before = bench.kinds()
    assert before.count("planned-again") == before.count("batch-found") == 1
    assert drive(bench).state == "succeeded"
    assert bench.kinds() == before


def test_a_given_learning_rate_leaves_find_batch_and_train(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(BATCH | {"lr.learning_rate": 0.03}))
    record = drive(bench)
    assert [step.name for step in record.steps] == ["find-batch", "train"]
    trained = record.trained()
    assert trained is not None
    assert trained.learning_rate == 0.03


def test_a_run_that_would_cost_too_much_at_the_found_batch_ends_with_exit_6(bench: Bench, make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    bench.start(limited(plan, Decimal("0.50")))
    record = drive(bench)
    assert record.exit_code is ExitCode.OVER_BUDGET
    assert bench.backend().created() == [f"{bench.run}-find-batch-1"]
    assert record.failure is not None
    assert f"found batch of {FOUND}" in record.failure.message
    assert "planned-again" in bench.kinds(), "the run shows what it would have cost"
    bench.store.append(bench.run, Resumed())
    assert drive(bench).exit_code is ExitCode.OVER_BUDGET, "resuming must not slip past the budget"
    assert bench.kinds().count("planned-again") == 1


def test_without_a_planner_nothing_is_guessed(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(BATCH))
    with pytest.raises(StoreError, match="planned again at batch 24"):
        bench.drive()
    assert bench.backend().created() == [f"{bench.run}-find-batch-1"]
    assert drive(bench).state == "succeeded", "another client goes on from there"


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.slow  # the user's code is checked and traced by processes that import torch
def test_the_users_code_stays_what_was_agreed_whatever_becomes_of_its_folder(
    bench: Bench, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "home"))
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "net.py").write_text(NET)
    monkeypatch.chdir(folder)
    plan = make_plan(BATCH | {"workload.model": "net:Net"})
    assert plan.provenance.code is not None
    shelve(plan)
    bench.start(plan)
    (folder / "net.py").write_text("class Other: pass\n")
    monkeypatch.chdir(elsewhere)
    record = drive(bench)
    assert record.state == "succeeded"
    assert record.plan.plan_id != plan.plan_id
    assert record.plan.provenance.code == plan.provenance.code
    assert record.plan.checked == plan.checked


WRONG: dict[str, Callable[[dict[str, object]], object]] = {
    "another choice than its tries lead to": lambda d: d.update(chosen=8),
    "a batch that was never tried": lambda d: d.update(chosen=640, largest=640),
    "another search": lambda d: d.update(search={**d["search"], "memory_share": 1.0}),  # type: ignore[dict-item] # JSON object by construction
    "another device's memory": lambda d: d.update(capacity_gib=100.0),
    "a measurement of another batch": lambda d: d.update(measured={**d["measured"], "peak_gib": 0.1}),  # type: ignore[dict-item] # as above
    "another input's": lambda d: d.update(input_sha256="0" * 64),
    "no tries": lambda d: d.update(trials=[]),
    "not finite": lambda d: d.update(capacity_gib=float("inf")),
}


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_result_that_cannot_be_is_refused_and_nothing_is_planned_with_it(
    bench: Bench, make_plan: MakePlan, wrong: str
) -> None:
    bench.start(make_plan(BATCH))
    record = drive(bench, changed(WRONG[wrong]))
    assert record.exit_code is ExitCode.NO_RESULT
    assert not record.step("find-batch").done
    assert "planned-again" not in bench.kinds()


def test_a_log_that_is_planned_again_with_other_steps_is_damaged(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(BATCH))
    bench.store.append(bench.run, PlannedAgain(plan=make_plan()))
    with pytest.raises(StoreError) as caught:
        bench.store.record(bench.run)
    assert "other steps" in caught.value.why


@pytest.mark.parametrize("name", ["after-result-before-record", "after-result-recorded", "after-conclusion"])
def test_kill_9_around_the_found_batch_then_resume_leads_to_the_same_run(name: str, tmp_path: Path) -> None:
    arguments = ("launch", "--backend", "fake", "--pipeline", "batch-then-lr-then-train", "--yes")
    launched = gpuplan(tmp_path, *arguments, failpoint=f"{name}:kill")
    assert launched.returncode == -signal.SIGKILL
    resumed = gpuplan(tmp_path, "resume", "-o", "json")
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads(resumed.stdout)
    assert record["find_batch"]["chosen"] == record["batch"]["train"]["per_gpu"] == FOUND
    jobs = [created.removeprefix(record["run_id"] + "-") for created in FakeBackend(tmp_path / "fake").created()]
    assert jobs == ["find-batch-1", "lr-find-1", "train-1"]
