"""Result documents: published once, the first publisher's for good, and never what the job did not write."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws.layout import attempt_place
from gpuplan.aws.results import Results
from gpuplan.core.errors import NoResultError
from gpuplan_job.contract import EXIT_FILE, FAILURE_FILE, LR_RESULT_FILE, TRAIN_RESULT_FILE, Failure
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpuplan_job.contract import FailureKind

PLACE = attempt_place("gpuplan", "digits-0000000000001", "train", 1)
RESULT = b'{"schema":"gpuplan.train-result/1"}'


@dataclass
class Bucket:
    """Objects in memory; another client may get in between any look and any write."""

    objects: dict[str, bytes] = field(default_factory=dict)
    before_put: Callable[[], object] = lambda: None
    written: list[str] = field(default_factory=list)

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def put_once(self, key: str, data: bytes) -> bool:
        self.before_put()
        if key in self.objects:
            return False
        self.objects[key] = data
        self.written.append(key)
        return True

    def list(self, prefix: str) -> Iterator[str]:
        return (key for key in reversed(self.objects) if key.startswith(prefix))


def left(**files: bytes) -> Bucket:
    """Return a bucket with what a job left: `train_result`, `failure`, ... and the exit file that names the digests."""
    names = {name if "." in name else f"{name}.json": content for name, content in files.items()}
    exit_file = {"code": 0, "files": {name: sha256_hex(content) for name, content in names.items()}}
    bucket = Bucket({PLACE.mirrored(name): content for name, content in names.items()})
    bucket.objects[PLACE.mirrored(EXIT_FILE)] = json.dumps(exit_file).encode()
    return bucket


def failure(kind: FailureKind, message: str) -> bytes:
    return Failure("digits-0000000000001", "train", 1, kind, message, "a fix", rank=0).to_json().encode()


def test_a_document_is_published_beside_what_the_job_mirrors_and_read_there_ever_after() -> None:
    bucket = left(train_result=RESULT)
    assert Results(bucket, PLACE).document(TRAIN_RESULT_FILE) == RESULT
    assert bucket.written == [PLACE.published(TRAIN_RESULT_FILE)]
    bucket.objects[PLACE.mirrored(TRAIN_RESULT_FILE)] = b"written over by a late upload"
    assert Results(bucket, PLACE).document(TRAIN_RESULT_FILE) == RESULT
    assert len(bucket.written) == 1


def test_the_first_publisher_wins_over_one_that_looked_before() -> None:
    bucket = left(train_result=RESULT)
    key = PLACE.published(TRAIN_RESULT_FILE)
    bucket.before_put = lambda: bucket.objects.setdefault(key, b"the other client's")
    assert Results(bucket, PLACE).document(TRAIN_RESULT_FILE) == b"the other client's"
    assert bucket.written == []


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_what_differs_from_the_jobs_digest_is_refused_and_not_published(wrote: bytes, found: bytes) -> None:
    bucket = left(train_result=wrote)
    bucket.objects[PLACE.mirrored(TRAIN_RESULT_FILE)] = found
    if found == wrote:
        assert Results(bucket, PLACE).document(TRAIN_RESULT_FILE) == wrote
        return
    with pytest.raises(NoResultError, match="is not what the job wrote") as caught:
        Results(bucket, PLACE).document(TRAIN_RESULT_FILE)
    assert "gpuplan resume" in caught.value.fix
    assert bucket.written == []


@pytest.mark.parametrize("name", [LR_RESULT_FILE, TRAIN_RESULT_FILE, FAILURE_FILE, EXIT_FILE])
def test_what_the_job_did_not_leave_is_not_found(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        Results(Bucket(), PLACE).document(name)


def test_another_attempts_documents_are_not_taken() -> None:
    other = attempt_place("gpuplan", "digits-0000000000001", "train", 11)
    bucket = Bucket({other.mirrored(TRAIN_RESULT_FILE): RESULT, other.mirrored(FAILURE_FILE): failure("data", "x")})
    for name in (TRAIN_RESULT_FILE, FAILURE_FILE):
        with pytest.raises(FileNotFoundError):
            Results(bucket, PLACE).document(name)


@pytest.mark.parametrize(
    "exit_file",
    [None, b"", b"{", b"null", b"[]", b"{}", b'{"files": null}', b'{"files": []}', b'{"files": {}}', b"\xff\xfe"],
)
def test_without_the_launchers_last_word_a_document_stands_on_its_own(exit_file: bytes | None) -> None:
    bucket = left(train_result=RESULT)
    del bucket.objects[PLACE.mirrored(EXIT_FILE)]
    if exit_file is not None:
        bucket.objects[PLACE.mirrored(EXIT_FILE)] = exit_file
    assert Results(bucket, PLACE).document(TRAIN_RESULT_FILE) == RESULT


@pytest.mark.parametrize("cause_on", ["failure.json", "failure-algo-2.json", "failure-algo-3.json"])
def test_of_several_hosts_failures_the_cause_is_told_not_the_echo(cause_on: str) -> None:
    hosts = ("failure.json", "failure-algo-2.json", "failure-algo-3.json")
    echo, cause = failure("killed", 'stopped, since another host failed: "kind":"data"'), failure("data", "no image")
    bucket = left(**{name: cause if name == cause_on else echo for name in hosts})
    assert Results(bucket, PLACE).document(FAILURE_FILE) == cause


def test_where_every_host_was_killed_that_is_told() -> None:
    killed = failure("killed", "SIGTERM")
    assert Results(left(failure=killed), PLACE).document(FAILURE_FILE) == killed
    only_elsewhere = Bucket({PLACE.mirrored("failure-algo-2.json"): failure("disk", "full")})
    assert Results(only_elsewhere, PLACE).document(FAILURE_FILE) == failure("disk", "full")


def test_a_host_whose_rank_was_killed_is_told_before_those_that_lost_the_connection_to_it() -> None:
    echo = json.loads(failure("communication", "Connection reset by peer")) | {"echo": True}
    killed = failure("killed", "ended by SIGKILL")
    bucket = left(**{"failure.json": canonical_json(echo).encode(), "failure-algo-2.json": killed})
    assert Results(bucket, PLACE).document(FAILURE_FILE) == killed


def test_a_message_that_speaks_of_being_killed_is_no_echo() -> None:
    cause = failure("user-code", 'the log says {"kind":"killed"}')
    bucket = left(**{"failure-algo-2.json": failure("killed", "SIGTERM"), "failure.json": cause})
    assert Results(bucket, PLACE).document(FAILURE_FILE) == cause


def test_the_published_failure_stays_when_another_hosts_comes_late() -> None:
    bucket = left(failure=failure("data", "no image"))
    first = Results(bucket, PLACE).document(FAILURE_FILE)
    bucket.objects[PLACE.mirrored("failure-algo-2.json")] = failure("disk", "full")
    assert Results(bucket, PLACE).document(FAILURE_FILE) == first
