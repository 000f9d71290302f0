"""The template rendered, IAM's judgement of it, and an AWS account that it can be deployed to."""

from __future__ import annotations

import runpy
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gpuplan.aws.session import Session
from gpuplan.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RENDERING = runpy.run_path(str(HERE / "rendering.py"))
IAM = runpy.run_path(str(HERE / "iam.py"))
REGION = "eu-west-1"


class Render(Protocol):
    """Return the template with parameters worked out."""

    def __call__(
        self, parameters: dict[str, str] | None = None, region: str = "us-east-1", partition: str = "aws"
    ) -> dict[str, Any]: ...


class Allows(Protocol):
    """Tell whether a policy allows a request."""

    def __call__(
        self, policy: dict[str, Any], action: str, resource: str, context: dict[str, Any] | None = None
    ) -> bool: ...


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The template as data."""
    document: dict[str, Any] = RENDERING["load"]()
    return document


@pytest.fixture(scope="session")
def render() -> Render:
    function: Render = RENDERING["render"]
    return function


@pytest.fixture(scope="session")
def everything() -> dict[str, str]:
    """Parameters that turn every option on."""
    parameters: dict[str, str] = RENDERING["EVERYTHING"]
    return parameters


@pytest.fixture(scope="session")
def allows() -> Allows:
    function: Allows = IAM["allows"]
    return function


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """An AWS that makes stacks; the module's tests share it."""
    with Emulator(execute=False, region=REGION) as aws:
        yield aws


@pytest.fixture
def account(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An account to which this process's environment leads."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "GPUPLAN_STACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return Session(REGION)


@pytest.fixture
def stack_name() -> str:
    """A name no other test has: the emulator keeps its state for the whole module."""
    return f"gpuplan-{secrets.token_hex(4)}"
