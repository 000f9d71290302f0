"""Sessions for the checks: one whose clients are stubbed call by call, one on moto's server."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from gpuplan.aws.session import Credentials, Identity, Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "123456789012"


class StubbedSession(Session):
    """Real clients of botocore whose replies are queued; a call that no reply waits for fails."""

    def __init__(self, region: str = "us-east-1", profile: str | None = None) -> None:
        super().__init__(region, profile)
        self._stubs: dict[str, Stubber] = {}
        self._elsewhere: dict[str, StubbedSession] = {}

    def stub(self, service: str) -> Any:  # noqa: ANN401 - botocore is untyped
        if service not in self._stubs:
            client = boto3.client(service, self.region, config=Config(signature_version=UNSIGNED))
            self._stubs[service] = Stubber(client)
            self._stubs[service].activate()
        return self._stubs[service]

    def client(self, service: str) -> Any:  # noqa: ANN401 - as above
        return self.stub(service).client

    def identity(self) -> Identity:
        return Identity(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/ann")

    def credentials(self) -> Credentials:
        return Credentials("env", None)

    def in_region(self, region: str) -> StubbedSession:
        return self._elsewhere.setdefault(region, StubbedSession(region, self.profile))

    def denied(self, service: str, operation: str, action: str) -> None:
        said = f"User: ann is not authorized to perform: {action} because no identity-based policy allows it"
        self.stub(service).add_client_error(operation, "AccessDeniedException", said, 403)


@pytest.fixture
def stubbed() -> StubbedSession:
    return StubbedSession()


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def moto_session(moto_url: str, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One session for all tests: botocore reads a service's model once."""
    session = Session("us-east-1")
    with pytest.MonkeyPatch.context() as environment:
        _point_to(moto_url, environment, tmp_path_factory.mktemp("aws"))
        for service in ("sts", "iam", "s3", "logs"):
            session.client(service)
    return session


@pytest.fixture
def on_moto(moto_session: Session, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on a server that has forgotten what was there before."""
    _point_to(moto_url, monkeypatch, tmp_path)
    with urllib.request.urlopen(urllib.request.Request(f"{moto_url}/moto-api/reset", method="POST")):  # noqa: S310 - loopback
        return moto_session


def _point_to(url: str, environment: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        environment.delenv(name, raising=False)
    environment.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    environment.setenv("AWS_ENDPOINT_URL", url)
    environment.setenv("AWS_ACCESS_KEY_ID", "testing")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
