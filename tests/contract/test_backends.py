"""Laws of the backend protocol. Rendering is pure in every backend; what needs no torch and no network is done too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends import base
from gpuplan.backends.base import Backend, JobSpec
from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.core.errors import GpuplanError, UsageError
from gpuplan.core.job_state import JobState
from gpuplan.planning.job_input import job_input
from gpuplan.workload.schema import Aws
from gpuplan_job.contract import INPUT_FILE, LR_RESULT_FILE, JobInput

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.backends.base import Request

RUN = "digits-0000000000001"
BACKENDS = base.names()
ON_THIS_MACHINE = [name for name in BACKENDS if name in {"fake", "local"}]
"""Backends that may be asked about a job without a network."""
EVERY_BACKEND = pytest.mark.parametrize("name", BACKENDS)
EVERY_LOCAL = pytest.mark.parametrize("name", ON_THIS_MACHINE)


@pytest.fixture
def spec(make_plan: MakePlan) -> JobSpec:
    plan = make_plan()
    step = plan.steps[0]
    return JobSpec(job_input(plan, step, run_id=RUN, attempt=1, learning_rate=None), step.instance_type)


def attempt(spec: JobSpec, number: int) -> JobSpec:
    return replace(spec, job_input=replace(spec.job_input, attempt=number))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def carried(request: Request) -> str:
    """Return the input that a request holds, as its job will read it."""
    if "HyperParameters" not in request.body:
        return json.dumps(request.body["input"])
    parameters = request.body["HyperParameters"]
    return json.dumps({key: json.loads(value) for key, value in parameters.items()})


def test_there_are_backends() -> None:
    assert {"fake", "local", "sagemaker"} <= set(BACKENDS)


def test_an_unknown_backend_is_refused_with_the_nearest_name(tmp_path: Path, aws: Aws) -> None:
    with pytest.raises(UsageError) as caught:
        base.create("locl", tmp_path, aws)
    assert caught.value.why == "did you mean 'local'?"
    assert caught.value.fix.startswith("--backend local")


@EVERY_BACKEND
def test_rendering_is_pure(name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
    backend = base.create(name, tmp_path, aws)
    assert backend.render(spec) == backend.render(spec) == base.create(name, tmp_path, aws).render(spec)
    assert files(tmp_path) == [], "a dry run writes nothing"


@EVERY_BACKEND
def test_a_request_is_json_and_carries_the_whole_input(name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
    request = base.create(name, tmp_path, aws).render(spec)
    assert json.loads(json.dumps(request.body, allow_nan=False)) == request.body
    assert JobInput.from_json(carried(request)) == spec.job_input


@EVERY_BACKEND
def test_a_name_is_made_of_run_step_and_attempt_alone(name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
    backend = base.create(name, tmp_path, aws)
    other = replace(spec, instance_type="other", job_input=replace(spec.job_input, plan_id="f" * 64, device="cuda"))
    assert backend.render(other).name == backend.render(spec).name == f"{RUN}-lr-find-1"
    assert backend.render(other).handle == backend.render(spec).handle


@EVERY_BACKEND
def test_a_request_says_where_the_learning_rate_of_a_training_stands(
    name: str, tmp_path: Path, make_plan: MakePlan, aws: Aws
) -> None:
    plan = make_plan()
    bound = job_input(plan, plan.steps[-1], run_id=RUN, attempt=1, learning_rate=0.0123)
    request = base.create(name, tmp_path, aws).render(JobSpec(bound, "x"))
    found: object = request.body
    for part in request.learning_rate_at:
        assert isinstance(found, dict)
        found = found[part]
    assert "0.0123" in str(found)
    assert request.learning_rate_at, "or a plan would show a learning rate that nobody has found yet"


@EVERY_BACKEND
def test_rendering_is_not_told_apart_by_who_could_be_asked(name: str, tmp_path: Path, spec: JobSpec) -> None:
    # Nobody's credentials, and a profile that no configuration has.
    nobody = Aws(region="us-east-1", profile="no-such-profile")
    request = base.create(name, tmp_path, nobody).render(spec)
    assert JobInput.from_json(carried(request)) == spec.job_input


@EVERY_BACKEND
def test_a_backend_says_how_often_to_look_and_how_long_a_new_job_may_be_unknown(
    name: str, tmp_path: Path, aws: Aws
) -> None:
    backend = base.create(name, tmp_path, aws)
    assert 0 < backend.poll_seconds <= 60
    assert 0 <= backend.visibility_seconds <= 60


@EVERY_BACKEND
def test_every_attempt_has_a_name_and_a_handle_of_its_own(name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
    backend = base.create(name, tmp_path, aws)
    requests = [backend.render(attempt(spec, number)) for number in (1, 2, 11)]
    assert len({request.name for request in requests}) == len({request.handle for request in requests}) == 3


@EVERY_BACKEND
def test_a_handle_is_a_url_of_its_backend(name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
    handle = base.create(name, tmp_path, aws).render(spec).handle
    assert handle.startswith(f"{name}://")
    assert RUN in handle


@EVERY_BACKEND
@pytest.mark.parametrize("file", [LR_RESULT_FILE, "checkpoints/best.ckpt"])
def test_where_a_file_lies_is_told_without_asking(
    name: str, file: str, tmp_path: Path, spec: JobSpec, aws: Aws
) -> None:
    backend = base.create(name, tmp_path, aws)
    place = backend.locate(backend.render(spec).handle, file)
    assert RUN in place
    assert place.endswith(file)
    assert files(tmp_path) == []


@EVERY_LOCAL
class TestAJobThatWasNeverCreated:
    def handle(self, backend: Backend, spec: JobSpec) -> str:
        return backend.render(spec).handle

    def test_is_pending_not_a_crash(self, name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create(name, tmp_path, aws)
        assert backend.poll(self.handle(backend, spec)).state is JobState.PENDING

    def test_has_no_files(self, name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create(name, tmp_path, aws)
        with pytest.raises(FileNotFoundError):
            backend.fetch(self.handle(backend, spec), LR_RESULT_FILE)

    def test_can_be_asked_for_its_log(self, name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create(name, tmp_path, aws)
        handle = self.handle(backend, spec)
        page = backend.logs(handle)
        assert backend.logs(handle, page.cursor).lines == ()

    def test_is_stopped_as_often_as_one_likes(self, name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create(name, tmp_path, aws)
        for _ in range(2):
            assert backend.stop(self.handle(backend, spec)).state.terminal

    def test_is_nowhere_on_disk_after_all_that(self, name: str, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create(name, tmp_path, aws)
        handle = self.handle(backend, spec)
        backend.poll(handle)
        backend.stop(handle)
        backend.logs(handle)
        assert RUN in backend.locate(handle, "log.txt")
        assert files(tmp_path) == []


class TestSubmitting:
    """On the fake backend, which runs nothing."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FakeBackend:
        return FakeBackend(tmp_path, Script(log=("one", "two", "three")))

    def test_the_same_request_again_is_the_same_job(self, backend: FakeBackend, spec: JobSpec) -> None:
        request = backend.render(spec)
        assert backend.submit(request) == backend.submit(request) == request.handle
        assert backend.created() == [request.name]

    def test_a_name_that_is_taken_by_another_request_is_refused(self, backend: FakeBackend, spec: JobSpec) -> None:
        handle = backend.submit(backend.render(spec))
        before = backend.fetch(handle, LR_RESULT_FILE)
        other = backend.render(replace(spec, job_input=replace(spec.job_input, plan_id="f" * 64)))
        with pytest.raises(GpuplanError, match="already exists"):
            backend.submit(other)
        assert backend.fetch(handle, LR_RESULT_FILE) == before
        assert backend.created() == [other.name]

    def test_submitting_again_does_not_start_a_stopped_job(self, backend: FakeBackend, spec: JobSpec) -> None:
        request = backend.render(spec)
        backend.stop(backend.submit(request))
        backend.submit(request)
        assert backend.poll(request.handle).state is JobState.STOPPED

    def test_a_stop_is_confirmed_and_stays(self, backend: FakeBackend, spec: JobSpec) -> None:
        handle = backend.submit(backend.render(spec))
        assert backend.stop(handle).state.terminal
        assert backend.stop(handle).state.terminal
        assert backend.poll(handle).state is JobState.STOPPED

    def test_a_job_is_one_state_after_another_and_ends_once(self, backend: FakeBackend, spec: JobSpec) -> None:
        handle = backend.submit(backend.render(spec))
        seen = [backend.poll(handle).state for _ in range(6)]
        first = next(place for place, state in enumerate(seen) if state.terminal)
        assert set(seen[first:]) == {seen[first]}

    def test_a_file_that_the_job_did_not_write_is_not_found(self, backend: FakeBackend, spec: JobSpec) -> None:
        handle = backend.submit(backend.render(spec))
        with pytest.raises(FileNotFoundError):
            backend.fetch(handle, "no-such-file.json")

    def test_every_line_of_the_log_is_read_once(self, backend: FakeBackend, spec: JobSpec) -> None:
        handle = backend.submit(backend.render(spec))
        cursor = ""
        lines: list[str] = []
        for _ in range(4):
            page = backend.logs(handle, cursor)
            cursor = page.cursor
            lines += page.lines
        assert lines == ["one", "two", "three"]


class TestLocalFiles:
    """What the local backend reads and refuses without starting a process."""

    def folder(self, backend: Backend, spec: JobSpec) -> Path:
        folder = Path(backend.render(spec).body["folder"])
        folder.mkdir(parents=True)
        return folder

    def test_a_folder_that_belongs_to_another_input_is_refused_and_left_alone(
        self, tmp_path: Path, spec: JobSpec, aws: Aws
    ) -> None:
        backend = base.create("local", tmp_path, aws)
        folder = self.folder(backend, spec)
        (folder / INPUT_FILE).write_text("{}", encoding="utf-8")
        with pytest.raises(GpuplanError):
            backend.submit(backend.render(spec))
        assert [path.name for path in files(folder)] == [INPUT_FILE]
        assert (folder / INPUT_FILE).read_text(encoding="utf-8") == "{}"

    def test_a_line_is_read_when_it_is_complete_and_only_once(self, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create("local", tmp_path, aws)
        log = self.folder(backend, spec) / "log.txt"
        handle = backend.render(spec).handle
        cursor = ""
        lines: list[str] = []
        for part in ("", "one\ntw", "o\n", "", "três\n", "unfini"):
            with log.open("a", encoding="utf-8") as file:
                file.write(part)
            page = backend.logs(handle, cursor)
            assert int(page.cursor or 0) >= int(cursor or 0)
            cursor = page.cursor
            lines += page.lines
        assert lines == ["one", "two", "três"]

    def test_a_log_that_is_no_text_is_read_all_the_same(self, tmp_path: Path, spec: JobSpec, aws: Aws) -> None:
        backend = base.create("local", tmp_path, aws)
        (self.folder(backend, spec) / "log.txt").write_bytes(b"\xff\xfe broken\nwhole\n")
        assert backend.logs(backend.render(spec).handle).lines[-1] == "whole"

    @pytest.mark.parametrize(
        ("exit_file", "state"),
        [
            ('{"code": 0}', JobState.SUCCEEDED),
            ('{"code": 1}', JobState.FAILED),
            ('{"code": -9}', JobState.FAILED),
            ('{"code": "zero"}', JobState.PENDING),
            ("[]", JobState.PENDING),
            ("{", JobState.PENDING),
        ],
    )
    def test_the_exit_file_tells_how_a_job_ended(
        self, tmp_path: Path, spec: JobSpec, exit_file: str, state: JobState, aws: Aws
    ) -> None:
        backend = base.create("local", tmp_path, aws)
        (self.folder(backend, spec) / "exit.json").write_text(exit_file, encoding="utf-8")
        assert backend.poll(backend.render(spec).handle).state is state
