"""Checks of a user's own code on this machine's CPU: made once by the payload, kept until anything they saw changes.

Called by the command line before it plans. A failure is the user's to correct, so it ends the command before anything
is submitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.core import payload
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.engine.payload_process import PAYLOAD_PROCESS, Failed, PayloadProcess
from gpuplan_job.atomic import write_atomic
from gpuplan_job.code_check import CodeCheck
from gpuplan_job.document import ContractError, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.own_code.package import Packed
    from gpuplan_job.code_check import CheckRequest

HOW_TO_CHECK = "pip install 'gpuplan[local]'    then the same command checks it, on the CPU"
_CHECKER = "gpuplan_job.check"
_AGAIN = "gpuplan plan, with the same options, checks it again"


def checked(
    request: CheckRequest,
    packed: Packed,
    folder: Path,
    say: Callable[[str], None],
    payload_process: PayloadProcess = PAYLOAD_PROCESS,
) -> CodeCheck | Unknown:
    """Return what the check of the packed code shows, from `folder` if it is kept there; why there is none.

    Raises:
        UsageError: the code fails.
    """
    versions = payload_process.versions()
    if versions is None:
        return Unknown(unknown=f"it was not checked: PyTorch is not installed here; {HOW_TO_CHECK}")
    key = [request.to_json(), packed.code.files_sha256, payload.digest(), *versions]
    path = folder / f"{sha256_hex(chr(10).join(key))[:32]}.json"
    found = _kept(path)
    if found is not None:
        return found
    say(f"checking {_what(request)} on the CPU, once: it is kept under {folder}")
    answer = payload_process.ask(_CHECKER, request, packed.archive)
    if isinstance(answer, Failed):
        raise _error(request, answer, packed)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, answer)
    return CodeCheck.from_json(answer)


def _what(request: CheckRequest) -> str:
    return f"{request.model} on {request.data}"


def _kept(path: Path) -> CodeCheck | None:
    """Return the check kept at `path` if it is whole, and the files that it read outside the code are as they were."""
    try:
        found = CodeCheck.from_json(path.read_bytes())
    except (OSError, ContractError):
        return None
    return found if all(_seen(name) == seen for name, seen in found.reads.items()) else None


def _seen(name: str) -> list[int] | None:
    try:
        now = Path(name).stat()
    except OSError:
        return None
    return [now.st_size, now.st_mtime_ns]


def _error(request: CheckRequest, failed: Failed, packed: Packed) -> UsageError:
    if failed.kind is None:
        return UsageError(f"the check of {_what(request)} ended early: {failed.message}", fix=_AGAIN)
    notes = "; ".join(packed.code.notes)
    return UsageError(failed.message, why=notes, fix=f"{failed.fix}    then: {_AGAIN}")
