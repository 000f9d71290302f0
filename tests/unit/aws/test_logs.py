"""A job's log from CloudWatch: each line once, whatever the service does between two looks."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from gpuplan.aws.logs import GROUP, Logs
from gpuplan.aws.session import Session
from gpuplan.core.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = "digits-0000000000001-train-1"
HOSTS = (f"{JOB}/algo-1-1700000000", f"{JOB}/algo-1-1700009999", f"{JOB}/algo-2-1700000000")


class CloudWatch:
    """CloudWatch Logs: pages, empty pages, tokens that expire, calls that are turned away."""

    def __init__(self, page_size: int = 3) -> None:
        self.page_size = page_size
        self.streams: dict[str, list[tuple[int, str]]] = {}
        self.expired_before = 0
        self.issued = 0
        self.empty_pages = 0
        self.errors: dict[int, str] = {}
        """Which of the calls from now on, counted from 0, fails with which code."""
        self.calls = 0

    def describe_log_streams(self, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - as botocore takes it
        self._call("DescribeLogStreams")
        assert request["logGroupName"] == GROUP
        found = [name for name in sorted(self.streams) if name.startswith(request["logStreamNamePrefix"])]
        if not found:
            raise _refused("ResourceNotFoundException", "DescribeLogStreams")
        first = int(request.get("nextToken", 0))
        more = {"nextToken": str(first + 2)} if first + 2 < len(found) else {}
        return {"logStreams": [{"logStreamName": name} for name in found[first : first + 2]], **more}

    def get_log_events(self, **request: Any) -> dict[str, Any]:  # noqa: ANN401 - as botocore takes it
        self._call("GetLogEvents")
        assert request["startFromHead"] is True
        events = self.streams[request["logStreamName"]]
        token = request.get("nextToken")
        if token is None:
            since = request.get("startTime", 0)
            start = next((i for i, (time_ms, _) in enumerate(events) if time_ms >= since), len(events))
        else:
            issued, _, start_text = token.removeprefix("f/").partition("/")
            if int(issued) < self.expired_before:
                raise _refused("InvalidParameterException", "GetLogEvents")
            start = int(start_text)
        if self.empty_pages:
            self.empty_pages -= 1
            page = []
        else:
            page = events[start : start + self.page_size]
            if not page and token:
                return {"events": [], "nextForwardToken": token}
        self.issued += 1
        return {
            "events": [{"timestamp": time_ms, "message": message} for time_ms, message in page],
            "nextForwardToken": f"f/{self.issued}/{start + len(page)}",
        }

    def _call(self, operation: str) -> None:
        code = self.errors.pop(self.calls, None)
        self.calls += 1
        if code:
            raise _refused(code, operation)


def _refused(code: str, operation: str) -> Exception:
    error: Exception = ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
    return error


class FakeSession(Session):
    def __init__(self, cloud: CloudWatch) -> None:
        super().__init__("us-east-1")
        self._cloud = cloud

    def client(self, service: str) -> Any:  # noqa: ANN401 - botocore's clients are untyped
        assert service == "logs"
        return self._cloud


@pytest.fixture
def cloud() -> CloudWatch:
    return CloudWatch()


@pytest.fixture
def page(cloud: CloudWatch) -> Callable[[str], tuple[list[str], str]]:
    logs = Logs(FakeSession(cloud))
    return lambda cursor: logs.page(JOB, cursor)


def test_a_job_without_a_log_has_no_lines(page: Callable[[str], tuple[list[str], str]]) -> None:
    lines, cursor = page("")
    assert (lines, page(cursor)[0]) == ([], [])


def test_lines_come_in_order_and_once(cloud: CloudWatch, page: Callable[[str], tuple[list[str], str]]) -> None:
    cloud.streams[HOSTS[0]] = [(number, f"line {number}") for number in range(10)]
    lines, cursor = page("")
    assert lines == [f"line {number}" for number in range(10)]
    cloud.streams[HOSTS[0]].append((10, "late"))
    lines, cursor = page(cursor)
    assert lines == ["late"]
    assert page(cursor)[0] == []


def test_hosts_after_the_first_are_named_and_restarts_come_after_their_first_try(
    cloud: CloudWatch, page: Callable[[str], tuple[list[str], str]]
) -> None:
    cloud.streams = {f"{JOB}/algo-10-1700000000": [(1, "ten")], f"{JOB}0/algo-1-17": [(1, "another job's")]}
    cloud.streams |= {name: [(1, name.rsplit("/", 1)[1])] for name in reversed(HOSTS)}
    assert page("")[0] == [
        "algo-1-1700000000",
        "algo-1-1700009999",
        "[algo-2] algo-2-1700000000",
        "[algo-10] ten",
    ]


def test_a_message_of_several_lines_is_several_lines(
    cloud: CloudWatch, page: Callable[[str], tuple[list[str], str]]
) -> None:
    cloud.streams[HOSTS[2]] = [(1, "one\r\ntwo\n"), (2, ""), (3, "\u2028not a line end")]
    assert page("")[0] == ["[algo-2] one", "[algo-2] two", "[algo-2] ", "[algo-2] \u2028not a line end"]


@pytest.mark.parametrize("code", ["ThrottlingException", "ServiceUnavailableException", "InternalFailure"])
@pytest.mark.parametrize("call", range(5))
def test_a_look_that_is_turned_away_loses_nothing(
    cloud: CloudWatch, page: Callable[[str], tuple[list[str], str]], call: int, code: str
) -> None:
    cloud.streams = {HOSTS[0]: [(number, f"{number}") for number in range(5)], HOSTS[2]: [(0, "x")]}
    cloud.errors = {call: code}
    first, cursor = page("")
    assert first + page(cursor)[0] == ["0", "1", "2", "3", "4", "[algo-2] x"]


def test_a_stream_of_empty_pages_holds_nobody(cloud: CloudWatch, page: Callable[[str], tuple[list[str], str]]) -> None:
    cloud.streams[HOSTS[0]] = [(1, "line")]
    cloud.empty_pages = 25
    lines, cursor = page("")
    assert lines == []
    assert page(cursor)[0] == ["line"]


def test_logs_that_may_not_be_read_say_so(cloud: CloudWatch, page: Callable[[str], tuple[list[str], str]]) -> None:
    cloud.errors = {0: "AccessDeniedException"}
    with pytest.raises(CredentialsError):
        page("")


STEPS = st.one_of(
    st.tuples(st.just("print"), st.sampled_from(HOSTS), st.lists(st.integers(0, 1), min_size=1, max_size=8)),
    st.tuples(st.just("look"), st.dictionaries(st.integers(0, 6), st.just("ThrottlingException"), max_size=2)),
    st.tuples(st.just("expire tokens"), st.none()),
    st.tuples(st.just("empty pages"), st.integers(1, 3)),
)


@given(st.lists(STEPS, max_size=25), st.integers(1, 5))
def test_no_line_is_ever_lost_or_repeated(steps: list[tuple[Any, ...]], page_size: int) -> None:
    cloud = CloudWatch(page_size)
    printed: dict[str, list[str]] = defaultdict(list)
    times: dict[str, int] = defaultdict(lambda: 1)
    cursor, seen = "", []
    logs = Logs(FakeSession(cloud))
    for step in [*steps, ("look", {}), ("look", {})]:
        match step:
            case ("print", stream, gaps):
                for gap in gaps:
                    times[stream] += gap
                    line = f"{stream} {len(printed[stream])}"
                    printed[stream].append(line)
                    cloud.streams.setdefault(stream, []).append((times[stream], line))
            case ("look", errors):
                cloud.errors = {cloud.calls + call: code for call, code in errors.items()}
                lines, cursor = logs.page(JOB, cursor)
                seen += [line.removeprefix("[algo-2] ") for line in lines]
            case ("expire tokens", _):
                cloud.expired_before = cloud.issued + 1
            case ("empty pages", count):
                cloud.empty_pages = count
    for stream, lines in printed.items():
        assert [line for line in seen if line.startswith(f"{stream} ")] == lines
    assert len(seen) == sum(map(len, printed.values()))


@mock_aws
def test_it_reads_what_a_real_client_gives() -> None:
    session = Session("us-east-1")
    logs, client = Logs(session), session.client("logs")
    assert logs.page(JOB) == ([], "{}"), "no group yet"
    client.create_log_group(logGroupName=GROUP)
    assert logs.page(JOB) == ([], "{}"), "no stream yet"
    client.create_log_stream(logGroupName=GROUP, logStreamName=HOSTS[0])
    now_ms = int(time.time() * 1000)

    def put(*messages: str) -> None:
        events = [{"timestamp": now_ms, "message": message} for message in messages]
        client.put_log_events(logGroupName=GROUP, logStreamName=HOSTS[0], logEvents=events)

    put("one", "two")
    lines, cursor = logs.page(JOB)
    assert lines == ["one", "two"]
    put("three")
    lines, cursor = logs.page(JOB, cursor)
    assert lines == ["three"]
    assert logs.page(JOB, cursor) == ([], cursor)
