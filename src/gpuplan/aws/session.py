"""The only boto3 session: one region, one profile, one client a service, and who the caller is.

Every function of `aws` and every backend takes a `Session`; tests subclass it to hand out fakes. It reads no variable
and decides nothing: region and profile come from `location`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan import __version__
from gpuplan.aws.errors import calling, part

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime

_CONNECT_TIMEOUT_SECONDS = 10
_READ_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Identity:
    """Who AWS says is calling."""

    account: str
    arn: str


@dataclass(frozen=True)
class Credentials:
    """What the credentials in use are, without them."""

    method: str
    """How they were found, in botocore's words: `env`, `shared-credentials-file`, `sso`, `assume-role`, ..."""
    expires_at: datetime | None
    """When they end; None for keys without an end and where it is not known."""


class _Boto:
    """boto3's own session, made when first needed; sessions of several regions share one and what it has read."""

    def __init__(self, region: str, profile: str | None) -> None:
        self.lock = threading.RLock()  # boto3 makes clients one at a time
        self._region = region
        self._profile = profile
        self._session: Any = None

    def session(self) -> Any:  # noqa: ANN401 - botocore is untyped
        if self._session is None:
            import boto3.session

            self._session = boto3.session.Session(region_name=self._region, profile_name=self._profile)
        return self._session


class Session:
    """Clients for one region and profile; nothing is imported, read or called before the first of them is asked for."""

    def __init__(self, region: str, profile: str | None = None) -> None:
        self.region = region
        self.profile = profile
        self._boto = _Boto(region, profile)
        self._clients: dict[str, Any] = {}
        self._identity: Identity | None = None

    def client(self, service: str) -> Any:  # noqa: ANN401 - botocore is untyped
        """Return the client of a service, always the same one.

        Raises:
            CredentialsError: the profile does not exist, or its credentials cannot be obtained.
            UsageError: the AWS configuration cannot be used.
        """
        with self._boto.lock:
            if service not in self._clients:
                with self.calling(f"prepare calls to {service}"):
                    self._clients[service] = self._boto.session().client(
                        service, region_name=self.region, config=_config()
                    )
            return self._clients[service]

    def identity(self) -> Identity:
        """Return the caller's account and ARN, asked of STS once.

        Raises:
            CredentialsError: AWS does not know the caller.
            UnreachableError: AWS did not answer.
        """
        with self._boto.lock:
            if self._identity is None:
                client = self.client("sts")
                with self.calling("learn who is calling (sts:GetCallerIdentity)"):
                    reply = client.get_caller_identity()
                self._identity = Identity(account=part(reply, "Account"), arn=part(reply, "Arn"))
            return self._identity

    def credentials(self) -> Credentials:
        """Return how the credentials were found and when they end.

        Raises:
            CredentialsError: there are none.
        """
        with self._boto.lock, self.calling("find credentials"):
            from botocore.exceptions import NoCredentialsError

            found = self._boto.session().get_credentials()
            if found is None:
                raise NoCredentialsError
            found.get_frozen_credentials()  # a lazy provider knows the end only after the first fetch
            # botocore has no public name for it; the AWS CLI reads the same attribute.
            return Credentials(method=found.method, expires_at=getattr(found, "_expiry_time", None))

    def regions_of(self, service: str) -> list[str]:
        """Return the regions in which botocore's own data has a service, of all partitions; a new one may be missing.

        Raises:
            CredentialsError: the profile does not exist.
        """
        with self._boto.lock, self.calling(f"list the regions of {service}"):
            boto = self._boto.session()
            return sorted(
                region
                for partition in boto.get_available_partitions()
                for region in boto.get_available_regions(service, partition_name=partition)
            )

    def in_region(self, region: str) -> Session:
        """Return a session of the same profile elsewhere; it shares credentials and what botocore has read so far."""
        there = Session(region, self.profile)
        there._boto = self._boto
        return there

    def calling(self, action: str, *, fix: str = "", passes: tuple[str, ...] = ()) -> AbstractContextManager[None]:
        """Return `errors.calling` with this session's profile in the commands it advises."""
        return calling(action, fix=fix, passes=passes, profile=self.profile)


def _config() -> Any:  # noqa: ANN401 - botocore is untyped
    from botocore.config import Config

    # The mode alone: how many attempts stays the user's to say (AWS_MAX_ATTEMPTS). Nothing of ours retries on top.
    return Config(
        retries={"mode": "standard"},
        user_agent_extra=f"gpuplan/{__version__}",
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=_READ_TIMEOUT_SECONDS,
    )
