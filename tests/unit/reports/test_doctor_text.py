from __future__ import annotations

import pytest

from gpuplan.aws.checks.base import Check, Status
from gpuplan.aws.checks.run import Diagnosis
from gpuplan.aws.location import Location
from gpuplan.aws.session import Identity
from gpuplan.core.errors import ExitCode
from gpuplan.reports.doctor_text import doctor_document, doctor_text
from gpuplan.reports.layout import Facts, Line, Table

HERE = Location("us-east-1", "AWS_REGION", "work", "AWS_PROFILE")
OK = Check("identity", Status.OK, "account 123456789012")
SMALL = Check("quota", Status.ERROR, "too small", "aws service-quotas ...", ExitCode.CAPACITY)
OLD = Check("lifecycle", Status.WARNING, "old", "gpuplan plan --instance g6")
UNSEEN = Check("image", Status.UNKNOWN, "not checked")


def diagnosis(*checks: Check, known: bool = True, location: Location = HERE) -> Diagnosis:
    caller = Identity("123456789012", "arn:aws:iam::123456789012:user/ann") if known else None
    return Diagnosis(caller, location, checks)


def facts(*checks: Check) -> tuple[tuple[str, str], ...]:
    block = doctor_text(diagnosis(*checks), "g5.12xlarge", "gpuplan launch --instance g5")[2]
    assert isinstance(block, Facts)
    return block.items


def test_the_header_says_about_what_where_and_that_nothing_was_changed() -> None:
    line, table, _ = doctor_text(diagnosis(OK), "g5.12xlarge", "")
    assert line == Line("gpuplan doctor · g5.12xlarge · account 123456789012 · us-east-1 · nothing was changed")
    assert isinstance(table, Table)


def test_an_unknown_account_is_said_to_be_unknown() -> None:
    line = doctor_text(diagnosis(SMALL, known=False), "g5.12xlarge", "")[0]
    assert isinstance(line, Line)
    assert "account unknown" in line.text


def test_what_needs_a_look_stands_out_and_a_name_is_printed_once() -> None:
    table = doctor_text(diagnosis(OK, SMALL, SMALL, OLD, UNSEEN), "g5.12xlarge", "")[1]
    assert isinstance(table, Table)
    assert table.rows == (
        ("identity", "ok", "account 123456789012"),
        ("quota", "ERROR", "too small"),
        ("", "ERROR", "too small"),
        ("lifecycle", "WARNING", "old"),
        ("image", "unknown", "not checked"),
    )


def test_fixes_come_once_errors_first_with_what_they_are_for() -> None:
    assert facts(OLD, SMALL, SMALL, UNSEEN) == (
        ("result", "not ready: 2 errors, 1 warning, 1 unknown"),
        ("fix", "aws service-quotas ...    # quota"),
        ("fix", "gpuplan plan --instance g6    # lifecycle"),
    )


def test_a_fix_for_several_findings_is_one_line_that_names_them() -> None:
    place = Check("region", Status.ERROR, "no such profile", SMALL.fix, ExitCode.CREDENTIALS)
    assert facts(place, SMALL)[1:] == (("fix", "aws service-quotas ...    # region, quota"),)


@pytest.mark.parametrize(("checks", "result"), [((OK,), "ready"), ((OK, OLD), "ready: 1 warning")])
def test_a_ready_account_is_told_what_to_do_next(checks: tuple[Check, ...], result: str) -> None:
    found = facts(*checks)
    assert found[0] == ("result", result)
    assert found[-1] == ("next", "gpuplan launch --instance g5")


def test_the_document_holds_every_finding_and_the_exit_status() -> None:
    assert doctor_document(diagnosis(OK, SMALL)) == {
        "schema": "gpuplan.doctor/1",
        "account": "123456789012",
        "region": {"value": "us-east-1", "from": "AWS_REGION"},
        "profile": {"value": "work", "from": "AWS_PROFILE"},
        "checks": [
            {"name": "identity", "status": "ok", "message": "account 123456789012", "fix": ""},
            {"name": "quota", "status": "error", "message": "too small", "fix": "aws service-quotas ..."},
        ],
        "exit_code": 4,
    }


def test_what_is_not_known_is_never_null() -> None:
    broken = Check("identity", Status.ERROR, "the credentials have expired", "", ExitCode.CREDENTIALS)
    chain = Location("us-east-1", "--region", None, "default credential chain")
    document = doctor_document(diagnosis(broken, known=False, location=chain))
    assert document["account"] == {"unknown": "the credentials have expired"}
    assert document["profile"] == {"from": "default credential chain"}
    assert document["exit_code"] == 3
