"""The bucket against moto's S3 over HTTP, with a proxy in between that loses replies and answers with errors."""

from __future__ import annotations

import http.client
import http.server
import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
import pytest
from moto.server import ThreadedMotoServer

from gpuplan.aws.s3 import Bucket
from gpuplan.aws.session import Session
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import CredentialsError, LockedError, UnreachableError, UsageError
from gpuplan.core.objects import ConflictError, ObjectStore
from gpuplan.store.events import CancelRequested, Planned, Resumed
from gpuplan.store.mirror import MirroredStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FakeClock, MakePlan

ACCOUNT = "123456789012"
REGION = "eu-west-1"
CONFLICT_409 = b"<Error><Code>ConditionalRequestConflict</Code><Message>again</Message></Error>"
DENIED_403 = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
REDIRECT_301 = (
    b"<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message><Bucket>runs</Bucket>"
    b"<Endpoint>runs.s3.amazonaws.com</Endpoint></Error>"
)


@dataclass
class Proxy:
    """Passes requests on, and does to the next ones what `faults` says, one each."""

    target: str
    faults: list[str | tuple[int, bytes]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    proxy: ClassVar[Proxy]
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.proxy.requests.append((self.command, self.path, dict(self.headers.items())))
        fault = self.proxy.faults.pop(0) if self.proxy.faults else ""
        self.close_connection = True
        if isinstance(fault, tuple):
            status, text = fault
            self._reply(status, {"x-amz-bucket-region": "us-west-2"}, text)
            return
        upstream = http.client.HTTPConnection(self.proxy.target)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        reply = upstream.getresponse()
        content, headers = reply.read(), dict(reply.getheaders())
        if fault == "lost":
            return
        if fault == "garbled":
            headers.pop("ETag", None)
        self._reply(reply.status, headers, content)

    def do_GET(self) -> None:
        self._pass()

    def do_PUT(self) -> None:
        self._pass()

    def do_HEAD(self) -> None:
        self._pass()

    def _reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        headers.pop("Transfer-Encoding", None)
        headers.pop("Connection", None)
        length = headers.pop("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Service:
    """S3 behind the proxy's back, and the bucket in it."""

    client: Any
    bucket: str


@contextmanager
def serving(proxy: Proxy) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": proxy})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture
def service(moto: str) -> Service:
    client = boto3.client("s3", endpoint_url=f"http://{moto}", region_name=REGION)
    name = f"runs-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return Service(client, name)


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(moto)
    with serving(proxy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield proxy


@pytest.fixture
def bucket(service: Service, proxy: Proxy, clock: FakeClock) -> Bucket:
    del proxy
    return Bucket(Session(REGION), service.bucket, ACCOUNT, clock)


def test_a_bucket_is_an_object_store(bucket: Bucket) -> None:
    store: ObjectStore = bucket
    assert store.locate("a/b") == f"s3://{bucket.name}/a/b"


class TestReading:
    def test_what_was_written_is_read(self, bucket: Bucket) -> None:
        assert bucket.put_once("a", b"one")
        assert bucket.get("a") == b"one"
        assert bucket.head("a")

    def test_what_is_not_there_is_a_missing_file_with_its_url(self, bucket: Bucket) -> None:
        with pytest.raises(FileNotFoundError, match=f"s3://{bucket.name}/a"):
            bucket.get("a")
        assert not bucket.head("a")

    def test_an_object_that_has_not_changed_is_not_sent_again(self, bucket: Bucket) -> None:
        etag = bucket.swap("a", b"one", None)
        assert bucket.get_with_etag("a", etag) is None
        bucket.swap("a", b"two", etag)
        found = bucket.get_with_etag("a", etag)
        assert found is not None
        assert found.data == b"two"
        assert found.etag not in {"", etag}

    def test_an_objects_age_is_told_by_the_servers_clock(self, bucket: Bucket) -> None:
        bucket.put_once("a", b"one")
        found = bucket.get_with_etag("a")
        assert found is not None
        assert 0 <= found.age_seconds < 5, "however wrong the fake clock of this test is"

    def test_keys_are_listed_page_by_page(self, service: Service, proxy: Proxy) -> None:
        session = Session(REGION)
        small_pages = "provide-client-params.s3.ListObjectsV2"
        session.client("s3").meta.events.register(small_pages, lambda params, **_: params | {"MaxKeys": 2})
        bucket = Bucket(session, service.bucket)
        keys = [f"runs/{run}/{name}" for run in ("a-1", "a-2", "b-1") for name in ("1", "2", "state.json")]
        for key in [*keys, "other"]:
            service.client.put_object(Bucket=bucket.name, Key=key)
        assert list(bucket.list("runs/")) == keys
        assert len(proxy.requests) == 5
        assert list(bucket.folders("runs/")) == ["a-1", "a-2", "b-1"]
        assert list(bucket.folders("runs/a")) == ["-1", "-2"]
        assert list(bucket.list("nothing/")) == list(bucket.folders("nothing/")) == []

    @pytest.mark.parametrize("call", ["get", "list"])
    def test_a_reply_that_says_nothing_is_no_answer(self, bucket: Bucket, proxy: Proxy, call: str) -> None:
        bucket.put_once("a", b"one")
        proxy.faults = [(200, b"")]
        with pytest.raises(UnreachableError):
            _ = bucket.get("a") if call == "get" else list(bucket.list(""))

    def test_every_call_names_the_account_that_must_own_the_bucket(self, bucket: Bucket, proxy: Proxy) -> None:
        etag = bucket.swap("a", b"one", None)
        bucket.swap("a", b"two", etag)
        bucket.get("a")
        bucket.head("a")
        bucket.check()
        list(bucket.list(""))
        owners = [headers.get("x-amz-expected-bucket-owner") for _, _, headers in proxy.requests]
        assert set(owners) == {ACCOUNT}


class TestWriting:
    def test_the_first_writer_wins(self, bucket: Bucket) -> None:
        assert bucket.put_once("a", b"one")
        assert not bucket.put_once("a", b"two")
        assert bucket.get("a") == b"one"

    def test_a_swap_replaces_the_version_it_names(self, bucket: Bucket) -> None:
        etag = bucket.swap("a", b"one", None)
        bucket.swap("a", b"two", etag)
        for stale in (etag, None):
            with pytest.raises(ConflictError, match="another client"):
                bucket.swap("a", b"three", stale)
        assert bucket.get("a") == b"two"

    def test_a_swap_of_what_was_deleted_is_a_conflict(self, bucket: Bucket, service: Service) -> None:
        etag = bucket.swap("a", b"one", None)
        service.client.delete_object(Bucket=bucket.name, Key="a")
        with pytest.raises(ConflictError, match="gone"):
            bucket.swap("a", b"two", etag)

    @pytest.mark.parametrize("fault", ["lost", "garbled"])
    @pytest.mark.parametrize("first", [True, False])
    def test_a_write_whose_reply_was_lost_is_found_to_have_been_made(
        self, bucket: Bucket, proxy: Proxy, fault: str, *, first: bool
    ) -> None:
        etag = None if first else bucket.swap("a", b"one", None)
        proxy.faults = [fault]
        new = bucket.swap("a", b"two", etag)
        found = bucket.get_with_etag("a")
        assert found is not None
        assert (found.data, found.etag) == (b"two", new)
        assert proxy.faults == []

    def test_a_lost_reply_does_not_hide_that_another_client_was_first(self, bucket: Bucket, proxy: Proxy) -> None:
        etag = bucket.swap("a", b"one", None)
        bucket.swap("a", b"theirs", etag)
        proxy.faults = ["lost"]
        with pytest.raises(ConflictError):
            bucket.swap("a", b"mine", etag)

    def test_a_write_that_races_with_another_is_tried_again(
        self, bucket: Bucket, proxy: Proxy, clock: FakeClock
    ) -> None:
        proxy.faults = [(409, CONFLICT_409), (409, CONFLICT_409)]
        assert bucket.put_once("a", b"one")
        assert bucket.get("a") == b"one"
        assert clock.elapsed == pytest.approx(0.3)

    def test_a_write_that_races_for_ever_is_a_conflict(self, bucket: Bucket, proxy: Proxy) -> None:
        etag = bucket.swap("a", b"one", None)
        proxy.faults = [(409, CONFLICT_409)] * 5
        with pytest.raises(ConflictError):
            bucket.swap("a", b"two", etag)

    def test_a_service_that_does_not_answer_leaves_the_write_open(
        self, bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        proxy.faults = ["lost", (503, b"")]
        with pytest.raises(UnreachableError, match="write s3://"):
            bucket.swap("a", b"one", None)
        assert bucket.get("a") == b"one"

    def test_a_file_is_uploaded_once(self, bucket: Bucket, tmp_path: Path, proxy: Proxy) -> None:
        path = tmp_path / "payload.pyz"
        path.write_bytes(bytes(range(256)) * 4096)
        assert bucket.upload_once("code/x/payload.pyz", path)
        assert bucket.get("code/x/payload.pyz") == path.read_bytes()
        before = len(proxy.requests)
        assert not bucket.upload_once("code/x/payload.pyz", path)
        assert len(proxy.requests) == before + 1, "one look, and nothing sent"


class TestTheBucketItself:
    def test_a_bucket_that_is_ours_and_here_passes(self, bucket: Bucket) -> None:
        bucket.check()

    def test_a_bucket_that_does_not_exist_is_named(self, proxy: Proxy) -> None:
        del proxy
        missing = Bucket(Session(REGION), "no-such-bucket")
        for call in (missing.check, lambda: missing.get("a"), lambda: missing.put_once("a", b"")):
            with pytest.raises(UsageError, match="no bucket 'no-such-bucket'") as caught:
                call()
            assert "--bucket" in caught.value.fix

    def test_a_bucket_in_another_region_is_refused_with_that_region(self, bucket: Bucket) -> None:
        elsewhere = Bucket(Session("us-east-2"), bucket.name)
        with pytest.raises(UsageError, match="is in eu-west-1, not in us-east-2") as caught:
            elsewhere.check()
        assert "--region eu-west-1" in caught.value.fix

    def test_a_redirect_that_leads_nowhere_names_the_region(self, bucket: Bucket, proxy: Proxy) -> None:
        proxy.faults = [(301, REDIRECT_301)] * 3
        with pytest.raises(UsageError, match="is in us-west-2, not in eu-west-1"):
            bucket.get("a")

    def test_a_bucket_of_somebody_else_is_a_matter_of_credentials(self, bucket: Bucket, proxy: Proxy) -> None:
        proxy.faults = [(403, DENIED_403)]
        with pytest.raises(CredentialsError, match="write s3://"):
            bucket.put_once("a", b"one")


class TestAsTheHomeOfRunHeads:
    @pytest.mark.parametrize("fault", ["lost", "garbled", (409, CONFLICT_409), (503, b"")])
    def test_a_run_goes_on_through_faults_and_on_another_machine(
        self, bucket: Bucket, proxy: Proxy, make_plan: MakePlan, tmp_path: Path, fault: str | tuple[int, bytes]
    ) -> None:
        one = MirroredStore(tmp_path / "one", SystemClock(), bucket, "gpuplan")
        two = MirroredStore(tmp_path / "two", SystemClock(), bucket, "gpuplan")
        run_id = "digits-0000000000001"
        proxy.faults = [fault]
        one.create(run_id, Planned(plan=make_plan()))
        assert two.resolve("digits") == run_id
        proxy.faults = [fault]
        two.append(run_id, CancelRequested())
        proxy.faults = ["", "", "", fault]  # first a conflict, told from a lost reply, and a look
        one.append(run_id, Resumed())
        assert proxy.faults == []
        with pytest.raises(LockedError, match="being driven by"):
            two.take(run_id)
        two.take(run_id, take_over=True)
        with pytest.raises(LockedError, match="fenced"):
            one.append(run_id, Resumed())
        kinds = [item.event.kind for item in two.events(run_id)]
        assert kinds == ["planned", "cancel-requested", "resumed"]
        assert one.local.events(run_id) == two.local.events(run_id)
