"""The engine against a scripted backend and a real store: what is done, recorded and refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.base import JobSpec, JobStatus
from gpuplan.backends.fake import FakeBackend, Script, synthetic_results
from gpuplan.core.errors import ExitCode, GpuplanError, MayBeBillingError
from gpuplan.core.job_state import JobState
from gpuplan.engine.run import Engine
from gpuplan.planning.money.cost import Cost
from gpuplan.reports.layout import console, rendered
from gpuplan.reports.run_document import run_document
from gpuplan.reports.run_text import run_text
from gpuplan.store.events import CancelRequested, Cause, Planned, Resumed
from gpuplan.store.sqlite import RunStore
from gpuplan_job.contract import FAILURE_FILE, LR_RESULT_FILE, TRAIN_RESULT_FILE, Failure, JobInput, LrResult
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import FakeClock, MakePlan, Recorder
    from engine.conftest import Bench
    from gpuplan.backends.base import Request
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.events import Event
    from gpuplan.store.record import RunRecord

RUN = "digits-0000000000001"


def changed(name: str, change: Callable[[dict[str, object]], object]) -> Script:
    """Return a script whose result file `name` is the healthy one, changed."""

    def results(job: JobInput) -> dict[str, bytes]:
        files = synthetic_results(job)
        if name in files:
            document = json.loads(files[name])
            change(document)
            files[name] = json.dumps(document).encode()
        return files

    return Script(results=results)


def test_a_healthy_run_finds_the_lr_binds_it_and_trains(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    record = bench.drive()
    assert record.state == "succeeded"
    assert record.exit_code is ExitCode.OK
    assert record.decision is not None
    trained = record.trained()
    assert trained is not None
    assert trained.learning_rate == record.decision.training_learning_rate
    assert [step.state for step in record.steps] == ["succeeded", "succeeded"]


def test_every_submit_is_preceded_by_its_durable_intent(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    bench.drive()
    kinds = bench.kinds()
    for index, kind in enumerate(kinds):
        if kind == "submitted":
            assert kinds[index - 1] == "submitting"
    assert kinds.count("submitting") == kinds.count("submitted") == 2


def test_driving_a_finished_run_again_does_nothing(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    bench.drive()
    before = bench.kinds()
    assert bench.drive().state == "succeeded"
    assert bench.kinds() == before


def test_a_given_lr_skips_the_finder(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan({"lr.learning_rate": 0.03}))
    record = bench.drive()
    assert [step.name for step in record.steps] == ["train"]
    trained = record.trained()
    assert trained is not None
    assert trained.learning_rate == 0.03


def test_a_flat_curve_gives_exit_9_and_training_never_starts(bench: Bench, make_plan: MakePlan) -> None:
    def flatten(document: dict[str, object]) -> None:
        curves = document["curves"]
        assert isinstance(curves, list)
        for curve in curves:
            curve["losses"] = [2.3] * len(curve["losses"])
            curve["stop_reason"] = "completed"
        document["decision"] = asdict(decide(LrResult.from_json(json.dumps(document))))

    bench.start(make_plan())
    record = bench.drive(changed(LR_RESULT_FILE, flatten))
    assert record.exit_code is ExitCode.NO_RESULT
    assert record.failure is not None
    assert record.failure.fix
    assert bench.backend().created() == [f"{RUN}-lr-find-1"]
    bench.store.append(RUN, Resumed())
    assert bench.drive().exit_code is ExitCode.NO_RESULT, "resuming must not turn a bad curve into a training"
    assert bench.backend().created() == [f"{RUN}-lr-find-1"]


WRONG: dict[str, Callable[[dict[str, object]], object]] = {
    "another run's": lambda d: d.update(run_id="other-0000000000002"),
    "another step's": lambda d: d.update(step="train2"),
    "another attempt's": lambda d: d.update(attempt=7),
    "another input's": lambda d: d.update(input_sha256="0" * 64),
    "another schema's": lambda d: d.update(schema="gpuplan.other/9"),
    "not finite": lambda d: d.update(measured={**d["measured"], "step_seconds": float("nan")}),  # type: ignore[dict-item] # JSON object by construction
    "missing a key": lambda d: d.pop("measured"),
    "with a key too many": lambda d: d.update(extra=1),
    "with a bool for a number": lambda d: d.update(attempt=True),
}


@pytest.mark.parametrize("name", [LR_RESULT_FILE, TRAIN_RESULT_FILE])
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_result_that_is_not_ours_is_refused_and_nothing_is_built_on_it(
    bench: Bench, make_plan: MakePlan, name: str, wrong: str
) -> None:
    bench.start(make_plan())
    record = bench.drive(changed(name, WRONG[wrong]))
    assert record.exit_code is ExitCode.NO_RESULT
    assert record.failure is not None
    assert "resume" in record.failure.fix
    step = "lr-find" if name == LR_RESULT_FILE else "train"
    assert not record.step(step).done


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"schema": 1e999}', b"[" * 100_000])
def test_a_truncated_or_garbage_result_is_refused(bench: Bench, make_plan: MakePlan, content: bytes) -> None:
    bench.start(make_plan())
    record = bench.drive(Script(results=lambda _: {LR_RESULT_FILE: content}))
    assert record.exit_code is ExitCode.NO_RESULT


def test_a_missing_result_is_refused(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    record = bench.drive(Script(results=lambda _: {}))
    assert record.failure is not None
    assert "without a result" in record.failure.message


def test_a_failed_job_tells_its_own_cause_and_resume_makes_a_new_attempt(bench: Bench, make_plan: MakePlan) -> None:
    def results(job: JobInput) -> dict[str, bytes]:
        failure = Failure(RUN, job.step, job.attempt, "out-of-memory", "the GPU ran out", "--per-gpu-batch 16", rank=1)
        return {FAILURE_FILE: failure.to_json().encode()}

    bench.start(make_plan())
    record = bench.drive(Script(states=(JobState.RUNNING, JobState.FAILED), results=results))
    assert record.exit_code is ExitCode.JOB_FAILED
    assert record.failure is not None
    assert "on rank 1: the GPU ran out" in record.failure.message
    assert "--per-gpu-batch 16" in record.failure.fix
    assert "resume" not in record.failure.fix, "the same plan would run out of memory again"
    bench.store.append(RUN, Resumed())
    record = bench.drive()
    assert record.state == "succeeded"
    assert [attempt.number for attempt in record.step("lr-find").attempts] == [1, 2]


def test_the_record_keeps_what_the_failed_rank_said_last_and_how_it_ended(bench: Bench, make_plan: MakePlan) -> None:
    def results(job: JobInput) -> dict[str, bytes]:
        failure = Failure(
            RUN, job.step, job.attempt, "killed", "ended", "retry", rank=1, signal="SIGKILL", last_lines=["one", "two"]
        )
        return {FAILURE_FILE: failure.to_json().encode()}

    bench.start(make_plan())
    record = bench.drive(Script(states=(JobState.RUNNING, JobState.FAILED), results=results))
    assert record.failure is not None
    assert record.failure.cause == Cause(kind="killed", rank=1, signal="SIGKILL", last_lines=("one", "two"))
    assert record.failure.why == "cause: killed, its process ended with SIGKILL"
    text = rendered(run_text(record, lambda handle, name: f"{handle}/{name}", None), console())
    shown = "\n".join(text)
    assert "last lines" in shown
    assert shown.index("one") < shown.index("two")
    failure = run_document(record, lambda handle, name: f"{handle}/{name}")["failure"]
    assert (failure["kind"], failure["rank"], failure["signal"]) == ("killed", 1, "SIGKILL")
    assert failure["last_lines"] == ["one", "two"]
    assert failure["job_exit_code"] == {"unknown": "ended by SIGKILL"}


def test_a_job_that_dies_without_a_word_points_to_its_log(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    record = bench.drive(Script(states=(JobState.FAILED,), results=lambda _: {}))
    assert record.failure is not None
    assert "gpuplan logs" in record.failure.fix


def test_an_unknown_state_is_waited_out(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    states = (JobState.UNKNOWN, JobState.RUNNING, JobState.UNKNOWN, JobState.SUCCEEDED)
    assert bench.drive(Script(states=states)).state == "succeeded"


def test_a_cancel_request_before_a_step_keeps_it_from_starting(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    bench.store.append(RUN, CancelRequested())
    assert bench.drive().state == "cancelled"
    assert bench.backend().created() == []


def test_the_measured_step_time_replaces_the_estimate_and_can_break_the_budget(
    bench: Bench, make_plan: MakePlan
) -> None:
    plan = make_plan({"launch.instance": "g5", "launch.backend": "sagemaker", "workload.epochs": 90})
    limit = plan.provenance.settings.launch.model_copy(update={"max_cost": Decimal("0.5")})
    settings = plan.provenance.settings.model_copy(update={"launch": limit})
    plan = plan.model_copy(update={"provenance": plan.provenance.model_copy(update={"settings": settings})})

    def slow(document: dict[str, object]) -> None:
        measured = document["measured"]
        assert isinstance(measured, dict)
        measured["step_seconds"] = 30.0

    bench.start(plan)
    record = bench.drive(changed(LR_RESULT_FILE, slow))
    assert record.replanned is not None
    assert record.exit_code is ExitCode.OVER_BUDGET
    assert len(bench.backend().created()) == 1
    bench.store.append(RUN, Resumed())
    assert bench.drive().exit_code is ExitCode.OVER_BUDGET, "resuming must not slip past the budget"


def test_what_lr_find_spent_counts_against_the_budget(bench: Bench, make_plan: MakePlan) -> None:
    def limited(limit: str) -> LaunchPlan:
        plan = make_plan({"launch.instance": "g5", "launch.backend": "sagemaker"})
        launch = plan.provenance.settings.launch.model_copy(update={"max_cost": Decimal(limit)})
        settings = plan.provenance.settings.model_copy(update={"launch": launch})
        return plan.model_copy(update={"provenance": plan.provenance.model_copy(update={"settings": settings})})

    bench.start(limited("1000"))
    free = bench.drive()
    assert free.state == "succeeded"
    assert free.replanned is not None
    assert isinstance(free.replanned.cost_usd, Cost)
    spent = free.step("lr-find").attempts[0].cost_usd
    assert isinstance(spent, Decimal)
    assert spent > 0
    # Enough for the training's p90 alone, not for what is already spent as well.
    tight = bench.another("digits-0000000000002")
    tight.start(limited(str(free.replanned.cost_usd.p90 + spent / 2)))
    assert tight.drive().exit_code is ExitCode.OVER_BUDGET


def test_an_error_while_polling_leaves_the_job_open_and_resume_adopts_it(bench: Bench, make_plan: MakePlan) -> None:
    class Offline(FakeBackend):
        def poll(self, handle: str) -> JobStatus:
            raise GpuplanError(f"cannot reach {handle}")

    bench.start(make_plan())
    with pytest.raises(GpuplanError, match="cannot reach"):
        bench.drive(backend=Offline(bench.root))
    assert bench.store.record(RUN).state == "running"
    assert bench.drive().state == "succeeded"
    assert bench.backend().created() == [f"{RUN}-lr-find-1", f"{RUN}-train-1"], "no second job beside the first"


def test_a_new_attempt_waits_for_the_end_of_the_one_before(bench: Bench, make_plan: MakePlan) -> None:
    class Refusing(FakeBackend):
        """Creates the job, then says that it could not."""

        def submit(self, request: Request) -> str:
            super().submit(request)
            raise GpuplanError("the reply was an error")

    class Deaf(FakeBackend):
        def stop(self, handle: str) -> JobStatus:
            return JobStatus(JobState.STOPPING, handle)

    bench.start(make_plan())
    record = bench.drive(backend=Refusing(bench.root))
    assert record.state == "failed"
    assert record.live_handles() == [f"fake://{RUN}-lr-find-1"]
    bench.store.append(RUN, Resumed())
    with pytest.raises(MayBeBillingError):
        bench.drive(backend=Deaf(bench.root))
    assert bench.backend().created() == [f"{RUN}-lr-find-1"]
    record = bench.drive()
    assert record.state == "succeeded"
    assert record.live_handles() == []
    assert [attempt.state for attempt in record.step("lr-find").attempts] == ["stopped", "succeeded"]


def test_a_job_whose_files_are_deleted_is_a_failure_not_an_endless_wait(bench: Bench, make_plan: MakePlan) -> None:
    class Forgetful(FakeBackend):
        def submit(self, request: Request) -> str:
            handle = super().submit(request)
            for file in bench.root.glob("*.json"):
                file.unlink()
            return handle

    bench.start(make_plan())
    record = bench.drive(backend=Forgetful(bench.root))
    assert record.exit_code is ExitCode.JOB_FAILED
    assert record.failure is not None
    assert "it is gone" in record.failure.message


@pytest.mark.parametrize("submit_fails", [False, True])
def test_a_cancel_that_overtakes_the_submit_ends_as_cancelled(
    bench: Bench, make_plan: MakePlan, *, submit_fails: bool
) -> None:
    class Overtaken(FakeBackend):
        """Meets the cancel while it renders, before the call, or while the call fails."""

        def render(self, spec: JobSpec) -> Request:
            if not submit_fails:
                bench.store.append(RUN, CancelRequested())
            return super().render(spec)

        def submit(self, request: Request) -> str:
            bench.store.append(RUN, CancelRequested())
            raise GpuplanError(f"the launcher of {request.name} was stopped while it started")

    bench.start(make_plan())
    record = bench.drive(backend=Overtaken(bench.root))
    assert record.state == "cancelled"
    assert record.live_handles() == []
    assert bench.backend().created() == []


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the engine may catch it."""


class Mortal:
    """Counts the effects of store and backend together, and dies before or after the chosen one."""

    def __init__(self, last: int, *, after: bool) -> None:
        self.left, self.after = last, after

    def around(self, effect: Callable[[], object]) -> object:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        result = effect()
        if self.left == 0:
            raise Killed
        return result


class MortalStore:
    def __init__(self, store: RunStore, mortal: Mortal) -> None:
        self._store, self._mortal = store, mortal

    def append(self, run_id: str, event: Event) -> None:
        self._mortal.around(lambda: self._store.append(run_id, event))

    def record(self, run_id: str) -> RunRecord:
        return self._store.record(run_id)

    def renew(self, run_id: str) -> None:
        self._store.renew(run_id)


class MortalBackend(FakeBackend):
    def __init__(self, root: Path, mortal: Mortal) -> None:
        super().__init__(root)
        self._mortal = mortal

    def submit(self, request: Request) -> str:
        return str(self._mortal.around(lambda: FakeBackend.submit(self, request)))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_death_around_any_effect_then_resume_does_each_step_once(
    make_plan: MakePlan, clock: FakeClock, recorder: Recorder, tmp_path: Path, *, after: bool
) -> None:
    plan = make_plan()
    deaths = 0
    for last in range(1, 100):
        home = tmp_path / f"{last}"
        store = RunStore(home, clock)
        store.create(RUN, Planned(plan=plan))
        mortal = Mortal(last, after=after)
        engine = Engine(MortalStore(store, mortal), MortalBackend(home / "fake", mortal), clock, recorder)
        try:
            engine.drive(RUN)
        except Killed:
            deaths += 1
        else:
            break
        record = Engine(store, FakeBackend(home / "fake"), clock, recorder).drive(RUN)
        assert record.state == "succeeded", last
        assert FakeBackend(home / "fake").created() == [f"{RUN}-lr-find-1", f"{RUN}-train-1"], last
        kinds = [stored.event.kind for stored in store.events(RUN)]
        assert (kinds.count("measured"), kinds.count("decided"), kinds.count("trained")) == (1, 1, 1), last
    assert deaths > 10, "the loop must have died in many places"


def test_results_are_read_from_the_attempt_that_made_them(bench: Bench, make_plan: MakePlan) -> None:
    seen: list[int] = []

    def results(job: JobInput) -> dict[str, bytes]:
        seen.append(job.attempt)
        return synthetic_results(replace(job))

    bench.start(make_plan())
    bench.drive(Script(results=results))
    assert set(seen) == {1}
