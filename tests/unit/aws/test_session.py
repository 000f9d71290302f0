from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from gpuplan import __version__
from gpuplan.aws.session import Session
from gpuplan.core.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> Path:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return tmp_path


def test_a_session_says_who_is_calling_and_asks_once() -> None:
    session = Session("us-east-1")
    identity = session.identity()
    assert identity.account == "123456789012"
    assert identity.arn.startswith("arn:aws:sts::123456789012:")
    assert session.identity() is identity


def test_a_service_has_one_client_in_the_sessions_region() -> None:
    session = Session("eu-west-1")
    assert session.client("s3") is session.client("s3")
    assert session.client("s3").meta.region_name == "eu-west-1"


def test_the_region_is_the_sessions_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert Session("eu-west-1").client("sagemaker").meta.region_name == "eu-west-1"


def test_calls_name_gpuplan_time_out_and_leave_retries_to_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    config = Session("us-east-1").client("sagemaker").meta.config
    assert config.user_agent_extra.endswith(f"gpuplan/{__version__}")
    assert (config.connect_timeout, config.read_timeout) == (10, 30)
    assert config.retries == {"mode": "standard", "total_max_attempts": 7}


def test_another_region_keeps_the_profile() -> None:
    session = Session("us-east-1", "work").in_region("eu-west-1")
    assert (session.region, session.profile) == ("eu-west-1", "work")


def test_keys_of_the_environment_have_no_known_end() -> None:
    credentials = Session("us-east-1").credentials()
    assert (credentials.method, credentials.expires_at) == ("env", None)


def test_a_named_profile_is_used_though_the_environment_holds_keys(environment: Path) -> None:
    (environment / "credentials").write_text("[work]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert Session("us-east-1", "work").credentials().method == "shared-credentials-file"


def test_credentials_that_end_say_when(environment: Path) -> None:
    keys = '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "SessionToken": "c", '
    keys += '"Expiration": "2099-01-02T03:04:05Z"}'
    (environment / "keys.json").write_text(keys)
    (environment / "config").write_text(f"[profile work]\ncredential_process = cat {environment}/keys.json\n")
    credentials = Session("us-east-1", "work").credentials()
    assert credentials.method == "custom-process"
    assert credentials.expires_at is not None
    assert credentials.expires_at.isoformat() == "2099-01-02T03:04:05+00:00"


def test_no_credentials_are_an_error_not_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError):
        Session("us-east-1").credentials()


def test_advice_names_the_sessions_profile() -> None:
    with pytest.raises(CredentialsError) as caught:
        Session("us-east-1", "nobody").client("sts")
    assert "nobody" in caught.value.what


def test_making_a_session_imports_no_boto3() -> None:
    code = "import sys; from gpuplan.aws.session import Session; Session('us-east-1'); "
    code += "sys.exit(any(m.partition('.')[0] in ('boto3', 'botocore') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
