"""The one tree of errors that a user may meet, each with its documented exit code.

Raised anywhere in gpuplan, turned into text and an exit status only by `gpuplan.cli.app`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses scripts rely on (documented in docs/states.md)."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    CREDENTIALS = 3
    CAPACITY = 4
    PLAN_REFUSED = 5
    OVER_BUDGET = 6
    JOB_FAILED = 7
    LOCKED = 8
    NO_RESULT = 9
    MAY_BE_BILLING = 10
    INTERRUPTED = 130


class GpuplanError(Exception):
    """Something a user can act on: what happened, why it is likely, and the next command to paste."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix


class UsageError(GpuplanError):
    """A flag, a file, the environment or this machine's set-up is not usable as given."""

    exit_code = ExitCode.USAGE


class StoreError(GpuplanError):
    """The run store cannot be read or written; what it already holds is left alone."""

    exit_code = ExitCode.USAGE


class CredentialsError(GpuplanError):
    """AWS does not know who asks, or does not let them."""

    exit_code = ExitCode.CREDENTIALS


class CapacityError(GpuplanError):
    """A quota or AWS's own capacity is too small for what was asked."""

    exit_code = ExitCode.CAPACITY


class UnreachableError(GpuplanError):
    """AWS did not answer, or not in a way that says whether the call took effect: throttling, 5xx, network."""

    exit_code = ExitCode.CAPACITY


class ThrottledError(UnreachableError):
    """AWS turned the call away for its rate: it did not take effect."""


class PlanRefusedError(GpuplanError):
    """The plan does not fit, is stale or changed, or names a retired instance."""

    exit_code = ExitCode.PLAN_REFUSED


class OverBudgetError(GpuplanError):
    """The p90 cost passes --max-cost."""

    exit_code = ExitCode.OVER_BUDGET


class JobFailedError(GpuplanError):
    """A job ended without its result."""

    exit_code = ExitCode.JOB_FAILED


class LockedError(GpuplanError):
    """Another client drives this run."""

    exit_code = ExitCode.LOCKED


class NoResultError(GpuplanError):
    """A job ended, but with nothing that may be used: no LR suggestion, or an invalid result file."""

    exit_code = ExitCode.NO_RESULT


class MayBeBillingError(GpuplanError):
    """Something could not be confirmed as stopped."""

    exit_code = ExitCode.MAY_BE_BILLING
