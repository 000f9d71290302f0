"""Exit statuses are a contract; every error has one, and says what happened, why, and what to do."""

from __future__ import annotations

import inspect

import pytest

from gpuplan.core import errors
from gpuplan.core.errors import ExitCode, GpuplanError

DOCUMENTED = {
    "OK": 0,
    "INTERNAL": 1,
    "USAGE": 2,
    "CREDENTIALS": 3,
    "CAPACITY": 4,
    "PLAN_REFUSED": 5,
    "OVER_BUDGET": 6,
    "JOB_FAILED": 7,
    "LOCKED": 8,
    "NO_RESULT": 9,
    "MAY_BE_BILLING": 10,
    "INTERRUPTED": 130,
}
TREE = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, GpuplanError) and kind is not GpuplanError
]


def test_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: code.value for code in ExitCode} == DOCUMENTED


def test_there_are_errors() -> None:
    assert len(TREE) >= 8


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_a_user_can_act_on_is_not_an_internal_one(kind: type[GpuplanError]) -> None:
    assert kind.exit_code not in {ExitCode.OK, ExitCode.INTERNAL, ExitCode.INTERRUPTED}
    assert kind.__name__.endswith("Error")
    assert inspect.getdoc(kind)


@pytest.mark.parametrize("kind", [GpuplanError, *TREE], ids=lambda kind: kind.__name__)
def test_an_error_carries_what_why_and_fix(kind: type[GpuplanError]) -> None:
    error = kind("it broke", why="rust", fix="oil it")
    assert (str(error), error.what, error.why, error.fix) == ("it broke", "it broke", "rust", "oil it")
    assert (kind("it broke").why, kind("it broke").fix) == ("", "")
