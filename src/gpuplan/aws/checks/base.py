"""What a check is about and what it finds: `Needs` go in, `Check`s come out. Values, and the guard around each look."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gpuplan.aws.errors import AccessDeniedError
from gpuplan.core.errors import ExitCode, GpuplanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gpuplan.profiles.schema import Lifecycle

_WORST_FIRST = (ExitCode.CREDENTIALS, ExitCode.PLAN_REFUSED, ExitCode.CAPACITY)
"""Without access nothing else counts; no quota brings a retired instance back."""


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """A run will work, but something will be missed."""
    ERROR = "error"
    """A run would fail."""
    UNKNOWN = "unknown"
    """It could not be looked at; a run may well work."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    """What was looked at; several findings may be about one thing."""
    status: Status
    message: str
    fix: str = ""
    """The next command to paste; empty where nothing is to be done."""
    exit_code: ExitCode = ExitCode.OK
    """What an error means for the exit status."""


@dataclass(frozen=True)
class InstanceNeed:
    """Instances that one step runs on."""

    instance_type: str
    """With SageMaker's `ml.`."""
    count: int
    """At the same time."""
    spot: bool
    compute_capability: str | None
    """Of its GPU, such as `8.6`; None where it is no NVIDIA GPU."""


@dataclass(frozen=True)
class Needs:
    """What a run needs of the account."""

    instance_types: tuple[InstanceNeed, ...]
    role_arn: str | None
    """None: the stack's."""
    bucket: str | None
    """None: the stack's."""
    stack: str
    image: str | None
    """None: the table's, by the GPU's compute capability."""
    lifecycle: Lifecycle | None
    """Of the instance; None: not asked, because the user has settled it."""


def exit_code(checks: Iterable[Check]) -> ExitCode:
    """Return the exit status of the worst finding: access, then a retired instance, then capacity, then the rest."""
    found = {check.exit_code for check in checks if check.status is Status.ERROR}
    return next((code for code in _WORST_FIRST if code in found), max(found, default=ExitCode.OK))


def failed(name: str, error: GpuplanError) -> Check:
    """Return an error as a finding."""
    return Check(name, Status.ERROR, error.what, error.fix, ExitCode(error.exit_code))


def guarded(name: str, look: Callable[[], Iterable[Check]], *, denied: Status = Status.UNKNOWN) -> list[Check]:
    """Return what a look finds; what stops it becomes a finding, and being denied a look is no worse than `denied`."""
    try:
        return list(look())
    except AccessDeniedError as error:
        if denied is Status.ERROR:
            return [failed(name, error)]
        return [Check(name, denied, f"cannot see: {error.action or 'the call'} not allowed ({error.why})", error.fix)]
    except GpuplanError as error:
        return [failed(name, error)]
