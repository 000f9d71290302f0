"""What the doctor found, as people read it and as a JSON document. Returns blocks and data; prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.aws.checks.base import Check, Status
from gpuplan.reports.layout import Facts, Line, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.aws.checks.run import Diagnosis
    from gpuplan.reports.layout import Block

SCHEMA = "gpuplan.doctor/1"
_SHOWN = {Status.OK: "ok", Status.WARNING: "WARNING", Status.ERROR: "ERROR", Status.UNKNOWN: "unknown"}


def doctor_text(diagnosis: Diagnosis, subject: str, following: str) -> list[Block]:
    """Return the blocks of a diagnosis.

    Args:
        diagnosis: what was found.
        subject: what was asked about, such as the instance.
        following: the command to paste if nothing stands against it.
    """
    rows = []
    shown = ""
    for check in diagnosis.checks:
        rows.append(("" if check.name == shown else check.name, _SHOWN[check.status], check.message))
        shown = check.name
    blocks: list[Block] = [Line(_header(diagnosis, subject)), Table(("check", "", "found"), tuple(rows))]
    facts = [("result", _result(diagnosis.checks)), *_fixes(diagnosis.checks)]
    if diagnosis.exit_code == 0:
        facts.append(("next", following))
    return [*blocks, Facts(tuple(facts))]


def doctor_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as a `gpuplan.doctor/1` document."""
    caller, place = diagnosis.caller, diagnosis.location
    account: str | dict[str, str] = {"unknown": diagnosis.checks[0].message} if caller is None else caller.account
    named = {} if place.profile is None else {"value": place.profile}
    return {
        "schema": SCHEMA,
        "account": account,
        "region": {"value": place.region, "from": place.region_from},
        "profile": {**named, "from": place.profile_from},
        "checks": [
            {"name": check.name, "status": check.status.value, "message": check.message, "fix": check.fix}
            for check in diagnosis.checks
        ],
        "exit_code": int(diagnosis.exit_code),
    }


def _header(diagnosis: Diagnosis, subject: str) -> str:
    account = f"account {diagnosis.caller.account}" if diagnosis.caller else "account unknown"
    return f"gpuplan doctor · {subject} · {account} · {diagnosis.location.region} · nothing was changed"


def _result(checks: Sequence[Check]) -> str:
    counted = [
        f"{number} {word}{'s' if number > 1 and word != 'unknown' else ''}"
        for status, word in ((Status.ERROR, "error"), (Status.WARNING, "warning"), (Status.UNKNOWN, "unknown"))
        if (number := sum(check.status is status for check in checks))
    ]
    ready = "not ready" if any(check.status is Status.ERROR for check in checks) else "ready"
    return f"{ready}: {', '.join(counted)}" if counted else ready


def _fixes(checks: Sequence[Check]) -> list[tuple[str, str]]:
    """Return each fix once, errors first, with what it is for as the shell's comment, so the line can be pasted."""
    urgent = sorted((check for check in checks if check.fix), key=lambda check: check.status is not Status.ERROR)
    subjects: dict[str, dict[str, None]] = {}
    for check in urgent:
        subjects.setdefault(check.fix, {})[check.name] = None
    return [("fix", f"{fix}    # {', '.join(names)}") for fix, names in subjects.items()]
