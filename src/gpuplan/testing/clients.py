"""boto3 clients on the emulator that ignore whatever AWS configuration this machine has.

Tests use them through `Emulator.client`, the platform's own parts with `platform=True`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

from gpuplan.testing.wire import access_key

SECRET = "emulated-secret-key"  # noqa: S105 -- the emulator checks no signature; any text does

_SESSION_LOCK = Lock()
"""Making a client from a session is not safe in two threads at once."""


@dataclass
class Clients:
    """A cache of clients by service, account and region; safe to use from any thread."""

    url: str
    platform: bool = False
    _cache: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def client(self, service: str, account: str, region: str) -> Any:  # noqa: ANN401 -- boto3's clients are untyped
        """Return a client that acts in an account and a region."""
        with self._lock:
            key = (service, account, region)
            if key not in self._cache:
                self._cache[key] = self._make(*key)
            return self._cache[key]

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in self._cache.values():
                client.close()
            self._cache.clear()

    def _make(self, service: str, account: str, region: str) -> Any:  # noqa: ANN401
        from botocore.config import Config

        with _SESSION_LOCK:
            return session().create_client(
                service,
                region_name=region,
                endpoint_url=self.url,
                aws_access_key_id=access_key(account, platform=self.platform),
                aws_secret_access_key=SECRET,
                config=Config(max_pool_connections=50),
            )


@cache
def regions() -> frozenset[str]:
    """Return the names of every region that botocore knows, of all partitions."""
    return frozenset(
        region
        for partition in session().get_available_partitions()
        for region in session().get_available_regions("ec2", partition)
    )


@cache
def session() -> Any:  # noqa: ANN401 -- untyped
    """Return the one botocore session: it reads no profile, and each service's description once."""
    from botocore.session import Session

    nobody: tuple[None, list[str], None, None] = (None, [], None, None)
    nothing: tuple[None, list[str], str, None] = (None, [], os.devnull, None)
    return Session({"profile": nobody, "config_file": nothing, "credentials_file": nothing})
