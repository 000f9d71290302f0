"""A job's result documents on S3: read as the job left them, checked against its digests, published once.

Called by `backends.sagemaker` once a job is over. The job itself makes no AWS call: SageMaker mirrors its folder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from gpuplan.core.errors import NoResultError
from gpuplan.core.failpoint import failpoint
from gpuplan_job.contract import EXIT_FILE, FAILURE_FILE
from gpuplan_job.document import sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.aws.layout import AttemptPlace


class Objects(Protocol):
    """What is needed of a bucket."""

    def get(self, key: str) -> bytes:
        """Return an object.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether this call wrote it."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Return the keys that start with `prefix`."""
        ...


class Results:
    """The result documents of one attempt."""

    def __init__(self, objects: Objects, place: AttemptPlace) -> None:
        self._objects = objects
        self._place = place

    def document(self, name: str) -> bytes:
        """Return a document, publishing it first if nobody has: every client reads the same bytes ever after.

        Raises:
            FileNotFoundError: the job left none.
            NoResultError: what it left is not what it wrote.
        """
        key = self._place.published(name)
        try:
            return self._objects.get(key)
        except FileNotFoundError:
            pass
        content = self._failure() if name == FAILURE_FILE else self._checked(name)
        self._objects.put_once(key, content)
        failpoint("aws/after-publish")
        return self._objects.get(key)

    def _checked(self, name: str) -> bytes:
        content = self._objects.get(self._place.mirrored(name))
        expected = self._digests().get(name)
        if expected is not None and sha256_hex(content) != expected:
            raise NoResultError(
                f"{name} is not what the job wrote",
                why=f"its sha256 is {sha256_hex(content)[:10]}, the job noted {expected[:10]}",
                fix="gpuplan resume    runs the step again as a new attempt",
            )
        return content

    def _digests(self) -> dict[str, str]:
        try:
            document = json.loads(self._objects.get(self._place.mirrored(EXIT_FILE)))
            files = document["files"]
            return {str(name): str(digest) for name, digest in files.items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # the launcher died before its last word; the document's own checks remain

    def _failure(self) -> bytes:
        """Return the failure that is the cause: of several hosts', one that is not the echo of another's end."""
        stem = FAILURE_FILE.removesuffix(".json")
        found = [self._objects.get(key) for key in sorted(self._objects.list(self._place.mirrored(stem)))]
        if not found:
            raise FileNotFoundError(FAILURE_FILE)
        causes = [text for text in found if b'"echo":true' not in text] or found
        return next((text for text in causes if b'"kind":"killed"' not in text), causes[0])
