"""Leaves a job's documents where SageMaker picks them up: whole, with their digests, exit.json last of all.

Called by `sagemaker`. Of several hosts the first publishes; another speaks only of its own failure. Standard library
only.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import BATCH_RESULT_FILE, EXIT_FILE, FAILURE_FILE, LR_RESULT_FILE, TRAIN_RESULT_FILE
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.contract import Failure

_DOCUMENTS = (BATCH_RESULT_FILE, LR_RESULT_FILE, TRAIN_RESULT_FILE, FAILURE_FILE)
_RESERVE = ".reserve"
_RESERVE_BYTES = 1 << 16
"""Room kept free until the end, so that a full disk can still be reported; hidden, and gone before anything is said."""
_REASON_CHARACTERS = 1000
"""SageMaker shows 1024 as the job's FailureReason."""


class Publication:
    """The folder `results` that is mirrored to S3, and the file `reason` whose text SageMaker shows."""

    def __init__(self, results: Path, reason: Path) -> None:
        self.results = results
        self.reason = reason
        self.host: str | None = None
        """Set on a host that is not the first."""

    def clear(self) -> None:
        """Remove what an earlier start of the job published, and keep room for what this one will.

        Raises:
            OSError: the folder cannot be written.
        """
        self.results.mkdir(parents=True, exist_ok=True)
        stale = [*_DOCUMENTS, EXIT_FILE] if self.host is None else [self._failure_name]
        for name in stale:
            (self.results / name).unlink(missing_ok=True)
        (self.results / _RESERVE).write_bytes(bytes(_RESERVE_BYTES))

    def publish(self, folder: Path, code: int, failure: Failure | None) -> None:
        """Publish the documents in a job's folder, `failure` where the folder holds none, and the exit code last.

        Raises:
            OSError: one of them cannot be read or written.
        """
        self._release()
        documents = {name: path.read_text(encoding="utf-8") for name in _DOCUMENTS if (path := folder / name).exists()}
        if failure is not None:
            documents.setdefault(FAILURE_FILE, failure.to_json())
        self._write(documents, code)

    def publish_failure(self, failure: Failure, code: int) -> None:
        """Publish a failure alone, as far as the disk allows."""
        with suppress(OSError):
            self._release()
            self._write({FAILURE_FILE: failure.to_json()}, code)

    def explain(self, failure: Failure) -> None:
        """Tell SageMaker's users why the job failed, as far as the disk allows."""
        text = f"{failure.message.rstrip('.')}. {failure.fix}"
        with suppress(OSError):
            self.reason.parent.mkdir(parents=True, exist_ok=True)
            self.reason.write_text(text[:_REASON_CHARACTERS], encoding="utf-8")

    @property
    def _failure_name(self) -> str:
        return f"{FAILURE_FILE.removesuffix('.json')}-{self.host}.json"

    def _release(self) -> None:
        (self.results / _RESERVE).unlink(missing_ok=True)

    def _write(self, documents: dict[str, str], code: int) -> None:
        self.results.mkdir(parents=True, exist_ok=True)
        if self.host is not None:
            if FAILURE_FILE in documents:
                write_atomic(self.results / self._failure_name, documents[FAILURE_FILE])
            return
        for name, text in documents.items():
            write_atomic(self.results / name, text)
        digests = {name: sha256_hex(text) for name, text in documents.items()}
        write_atomic(self.results / EXIT_FILE, canonical_json({"code": code, "files": digests}))
