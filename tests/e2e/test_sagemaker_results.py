"""What a job leaves on S3: only its own, whole and sensible result leads on to a training, which costs the most."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e.bench import mirrored
from gpuplan.aws.layout import AttemptPlace
from gpuplan.aws.results import Results
from gpuplan.backends.fake import synthetic_results
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.errors import ExitCode, NoResultError, UnreachableError
from gpuplan.engine import verify
from gpuplan.planning.job_input import job_input
from gpuplan_job.contract import EXIT_FILE, LR_RESULT_FILE, TRAIN_RESULT_FILE, JobInput, LrResult
from gpuplan_job.decision import decide
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.bench import Bench
    from gpuplan.backends.base import Backend
    from gpuplan.testing import JobView

    Spoil = Callable[[str], str | bytes]

pytest_plugins = ("tests.e2e.bench",)


HANDLE = "sagemaker://us-east-1/digits-0000000000001-lr-find-1"


def first_rate(text: str, value: str) -> str:
    """Return a result whose first learning rate is written otherwise."""
    before, _, rest = text.partition('"learning_rates":[')
    return f'{before}"learning_rates":[{value},{rest.partition(",")[2]}'


def changed(**values: object) -> Spoil:
    return lambda text: canonical_json({**json.loads(text), **values})


def scaled(text: str) -> str:
    """Return a result in which every learning rate is a million times what it was."""
    document = json.loads(text)
    for curve in document["curves"]:
        curve["learning_rates"] = [1e6 * rate for rate in curve["learning_rates"]]
        curve["stopped_at_lr"] *= 1e6
    return canonical_json(document)


def other_sweep(text: str) -> str:
    document = json.loads(text)
    document["sweep"]["lr_max"] = 1e9
    return canonical_json(document)


def negative_stop(text: str) -> str:
    document = json.loads(text)
    for curve in document["curves"]:
        curve |= {"stop_reason": "diverged", "stopped_at_lr": -0.5}
    return canonical_json(document)


def no_time(text: str) -> str:
    document = json.loads(text)
    document["measured"]["step_seconds"] = 0.0
    return canonical_json(document)


LR_FAULTS: dict[str, Spoil] = {
    "NaN": lambda text: first_rate(text, "NaN"),
    "Infinity": lambda text: first_rate(text, "Infinity"),
    "overflow": lambda text: first_rate(text, "-1e999"),
    "negative": lambda text: first_rate(text, "-0.1"),
    "boolean": lambda text: first_rate(text, "true"),
    "string": lambda text: first_rate(text, '"1e-5"'),
    "null": lambda text: first_rate(text, "null"),
    "a key twice": lambda text: text.replace('"attempt":1', '"attempt":1,"attempt":1', 1),
    "an unknown key": changed(learning_rate=0.1),
    "another schema": changed(schema="gpuplan.lr-result/99"),
    "empty": lambda _: b"",
    "cut": lambda text: text[: len(text) // 2],
    "no text": lambda _: b"\xff\xfe\x00",
    "a list": lambda _: "[]",
    "another run": changed(run_id="digits-0000000000000"),
    "another step": changed(step="train"),
    "a stale attempt": changed(attempt=0),
    "another input": changed(input_sha256="0" * 64),
    "huge": scaled,
    "another sweep": other_sweep,
    "no sweeps": changed(curves=[]),
    "a negative end": negative_stop,
    "another batch": changed(batch={"per_gpu": 1, "world_size": 1, "accumulation": 1}),
    "no time": no_time,
}
TRAIN_FAULTS: dict[str, Spoil] = {
    "NaN": lambda text: text.replace('"val_loss":', '"val_loss":NaN,"was":', 1),
    "cut": lambda text: text[:-20],
    "fewer GPUs": changed(world_size=1),
    "another learning rate": changed(learning_rate=0.77),
    "no such epoch": changed(best_epoch=9),
    "no epochs": changed(epochs=[]),
    "another attempt": changed(attempt=2),
}


class TestAnLrResult:
    """The one number that a training is started with."""

    @pytest.mark.parametrize("spoil", LR_FAULTS.values(), ids=LR_FAULTS.keys())
    def test_one_that_is_not_a_sound_result_of_this_attempt_is_refused(self, spoil: Spoil) -> None:
        job = told_step("lr-find")
        text = synthetic_results(job)[LR_RESULT_FILE]
        assert verified(job, text).run_id == job.run_id
        with pytest.raises(NoResultError) as caught:
            verified(job, as_bytes(spoil(text.decode())))
        assert caught.value.fix.startswith(f"gpuplan resume {job.run_id}")

    @pytest.mark.parametrize("name", ["NaN", "cut", "another run", "huge"])
    def test_a_refused_one_is_exit_9_and_starts_no_training(self, bench: Bench, name: str) -> None:
        def spoilt(job: JobInput) -> dict[str, bytes]:
            return {LR_RESULT_FILE: as_bytes(LR_FAULTS[name](synthetic_results(job)[LR_RESULT_FILE].decode()))}

        bench.play = lambda job: bench.finish(job, spoilt)
        record = bench.launch()
        assert record.exit_code is ExitCode.NO_RESULT
        assert [job.name for job in bench.jobs(record.run_id)] == [f"{record.run_id}-lr-find-1"]

    @pytest.mark.parametrize("left", ["nothing", "other bytes", "no digest"])
    def test_one_that_is_absent_or_not_what_the_job_wrote_is_exit_9(self, bench: Bench, left: str) -> None:
        def leave(job: JobView) -> None:
            bench.aws.advance(job.name, "Training")
            whole = synthetic_results(told(job))[LR_RESULT_FILE]
            digests = {LR_RESULT_FILE: sha256_hex(whole)}
            exits = canonical_json({"code": 0, "files": digests}).encode()
            files = {"nothing": {EXIT_FILE: exits}, "other bytes": {EXIT_FILE: exits, LR_RESULT_FILE: whole + b" "}}
            bench.aws.complete(job.name, mirrored(told(job), files.get(left, {LR_RESULT_FILE: whole[:-9]})))

        bench.play = leave
        record = bench.launch()
        assert record.exit_code is ExitCode.NO_RESULT
        assert len(bench.jobs(record.run_id)) == 1

    def test_a_curve_that_says_nothing_is_exit_9_and_starts_no_training(self, bench: Bench) -> None:
        def flat(job: JobInput) -> dict[str, bytes]:
            document = json.loads(synthetic_results(job)[LR_RESULT_FILE])
            for curve in document["curves"]:
                curve["losses"] = [2.3 for _ in curve["losses"]]
            result = LrResult.from_json(canonical_json(document))
            return {LR_RESULT_FILE: replace(result, decision=decide(result)).to_json().encode()}

        bench.play = lambda job: bench.finish(job, flat)
        record = bench.launch()
        assert record.exit_code is ExitCode.NO_RESULT
        assert record.failure is not None
        assert "no learning rate: flat" in record.failure.message
        assert record.failure.fix
        assert len(bench.jobs(record.run_id)) == 1

    def test_after_a_bad_one_resume_measures_again_as_another_attempt(self, bench: Bench) -> None:
        bench.play = lambda job: bench.finish(job, lambda _: {LR_RESULT_FILE: b"{}"})
        run_id = bench.launch().run_id
        bench.play = bench.finish
        record = bench.drive(run_id)
        assert record.state == "succeeded"
        assert [job.name.removeprefix(f"{run_id}-") for job in bench.jobs(run_id)] == [
            "lr-find-1",
            "lr-find-2",
            "train-1",
        ]


class TestATrainResult:
    """What the money was spent on."""

    @pytest.mark.parametrize("spoil", TRAIN_FAULTS.values(), ids=TRAIN_FAULTS.keys())
    def test_one_that_is_not_of_the_training_asked_for_is_refused(self, spoil: Spoil) -> None:
        job = told_step("train")
        text = synthetic_results(job)[TRAIN_RESULT_FILE]
        assert verify.train_result(left(TRAIN_RESULT_FILE, text), HANDLE, job).learning_rate == 0.1
        with pytest.raises(NoResultError):
            verify.train_result(left(TRAIN_RESULT_FILE, as_bytes(spoil(text.decode()))), HANDLE, job)

    def test_a_refused_one_is_exit_9(self, bench: Bench) -> None:
        def spoilt(job: JobInput) -> dict[str, bytes]:
            return {TRAIN_RESULT_FILE: synthetic_results(job)[TRAIN_RESULT_FILE][:-20]}

        bench.play = lambda job: bench.finish(job, spoilt)
        record = bench.launch(launch__pipeline="train", lr__learning_rate=0.1)
        assert record.exit_code is ExitCode.NO_RESULT
        assert f"gpuplan resume {record.run_id}" in (record.failure.fix if record.failure else "")


class TestTheObject:
    """A result on S3: read whole or not at all, published once, every version kept."""

    @pytest.mark.parametrize("fault", ["garbled", "cut", "500"])
    def test_one_that_cannot_be_read_now_is_read_later_and_costs_no_second_job(self, bench: Bench, fault: str) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        key = "checkpoints/results/1/lr_result.json"
        if fault in {"garbled", "cut"}:
            bench.aws.faults.garbage("s3:GetObject", b"<html/>" if fault == "garbled" else None, where=key)
        else:
            bench.aws.faults.refuse("s3:GetObject", "InternalError", where=key)
        with pytest.raises(UnreachableError) as caught:
            bench.drive(run_id)
        assert caught.value.exit_code is ExitCode.CAPACITY
        assert bench.store().record(run_id).steps[0].state == "verifying"
        assert bench.drive(run_id).state == "succeeded"
        assert len(bench.jobs(run_id)) == 1

    def test_one_that_was_published_stays_whatever_is_written_beside_it(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        [job] = bench.jobs(run_id)
        bench.finish(job)
        first = bench.backend(bench.plan()).fetch(f"sagemaker://us-east-1/{job.name}", LR_RESULT_FILE)
        key = f"gpuplan/runs/{run_id}/lr-find/checkpoints/results/1/{LR_RESULT_FILE}"
        bench.aws.client("s3").put_object(Bucket=bench.account.bucket, Key=key, Body=b"{}")
        again = bench.backend(bench.plan()).fetch(f"sagemaker://us-east-1/{job.name}", LR_RESULT_FILE)
        assert again == first
        assert bench.drive(run_id).state == "succeeded"

    def test_one_that_another_writes_over_afterwards_is_refused_and_the_old_version_is_kept(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        [job] = bench.jobs(run_id)
        bench.finish(job)
        handle = f"sagemaker://us-east-1/{job.name}"
        first = bench.backend(bench.plan()).fetch(handle, LR_RESULT_FILE)
        theirs = changed(run_id="digits-0000000000000")(first.decode())
        key = f"gpuplan/runs/{run_id}/lr-find/1/results/{LR_RESULT_FILE}"
        s3 = bench.aws.client("s3")
        s3.put_object(Bucket=bench.account.bucket, Key=key, Body=theirs)
        record = bench.drive(run_id)
        assert record.exit_code is ExitCode.NO_RESULT
        assert record.failure is not None
        assert "the result of something else" in record.failure.message
        versions = s3.list_object_versions(Bucket=bench.account.bucket, Prefix=key)["Versions"]
        oldest = s3.get_object(Bucket=bench.account.bucket, Key=key, VersionId=versions[-1]["VersionId"])
        assert len(versions) == 2
        assert oldest["Body"].read() == first

    def test_two_clients_that_publish_at_once_read_the_same_bytes(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        [job] = bench.jobs(run_id)
        bench.finish(job)
        bench.aws.faults.lose_reply("s3:PutObject", where=f"results/{LR_RESULT_FILE}")
        backend = bench.backend(bench.plan())
        with pytest.raises(UnreachableError):
            backend.fetch(f"sagemaker://us-east-1/{job.name}", LR_RESULT_FILE)
        assert (
            backend.fetch(f"sagemaker://us-east-1/{job.name}", LR_RESULT_FILE)
            == synthetic_results(told(job))[LR_RESULT_FILE]
        )


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def told(job: JobView) -> JobInput:
    """Return what a job was told."""
    parameters = job.request["HyperParameters"]
    return JobInput.from_json(json.dumps({key: json.loads(value) for key, value in parameters.items()}))


@dataclass
class Folder:
    """A bucket in memory, and as much of a backend as verification asks of it."""

    objects: dict[str, bytes]

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def put_once(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, data) is data

    def list(self, prefix: str) -> Iterator[str]:
        return iter([key for key in self.objects if key.startswith(prefix)])

    def fetch(self, _handle: str, name: str) -> bytes:
        return Results(self, AttemptPlace("a/", "1")).document(name)

    def locate(self, handle: str, name: str) -> str:
        return f"{handle}/{name}"


EVIL: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    -1.0,
    0.0,
    1e300,
    -1e300,
    10**400,
    True,
    None,
    "0.1",
    [],
    {},
    "x" * 999,
]


def left(name: str, text: bytes) -> Backend:
    """Return a backend whose job left this document, with its digest."""
    exits = canonical_json({"code": 0, "files": {name: sha256_hex(text)}}).encode()
    files = {name: text, EXIT_FILE: exits}
    folder = Folder({f"a/checkpoints/results/1/{file}": content for file, content in files.items()})
    return cast("Backend", folder)


def verified(job: JobInput, text: bytes) -> LrResult:
    """Return what is read of a range test's result that a job left."""
    return verify.lr_result(left(LR_RESULT_FILE, text), HANDLE, job)


@cache
def told_step(name: str) -> JobInput:
    """Return what a step of a run on g5 is told."""
    values: dict[str, object] = {"launch.instance": "g5", "workload.epochs": 2}
    plan = plan_from(Given(values, dict.fromkeys(values, "the test"), None)).plan
    step = next(step for step in plan.steps if step.name == name)
    return job_input(plan, step, run_id="digits-0000000000001", attempt=1, learning_rate=0.1)


def leaves(document: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value that holds no others."""
    if isinstance(document, dict | list) and document:
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in items:
            yield from leaves(value, (*path, key))
    else:
        yield path


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_result_no_decision_is_made_from_an_unsound_one(data: st.DataObject) -> None:
    job = told_step("lr-find")
    document = json.loads(synthetic_results(job)[LR_RESULT_FILE])
    spots = list(leaves(document))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(spots))
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = data.draw(st.sampled_from(EVIL))
    try:
        result = verified(job, json.dumps(document).encode())
    except NoResultError:
        return
    decision = decide(result)
    if decision.verdict == "ok":
        assert decision.training_learning_rate is not None
        assert 0 < decision.training_learning_rate < math.inf
        assert decision.learning_rate is not None
        assert decision.learning_rate <= result.sweep.lr_max
