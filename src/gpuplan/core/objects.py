"""What the run store asks of a versioned object store: reads that name a version, writes that replace just that one.

`aws.s3.Bucket` is one, a test's fake another; the store knows neither. No object store is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class ConflictError(Exception):
    """The object is no longer, or not yet, the version that was to be replaced; nothing was written."""


@dataclass(frozen=True)
class Fetched:
    """An object as it was read."""

    data: bytes
    etag: str
    """Names this version; opaque."""
    age_seconds: float
    """How long ago it was written. Both ends are told by the store's own clock, so no client's clock has a say."""


class ObjectStore(Protocol):
    """Objects by key."""

    def get_with_etag(self, key: str, unless: str = "") -> Fetched | None:
        """Return an object, or None if it still is the version `unless`.

        Raises:
            FileNotFoundError: there is no such object.
            UnreachableError: the store does not answer.
        """
        ...

    def swap(self, key: str, data: bytes, etag: str | None) -> str:
        """Replace the version `etag` (None: no object at all) and return the new version's name.

        Raises:
            ConflictError: it is another version by now.
            UnreachableError: no usable answer; the write may have taken effect.
        """
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """Return the names between `prefix` and the next slash, each once."""
        ...

    def locate(self, key: str) -> str:
        """Return where a person finds the object."""
        ...
