"""The command table and the modules say the same."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

from gpuplan import cli
from gpuplan.cli.app import COMMANDS

FURNITURE = {
    "account",
    "app",
    "driving",
    "home",
    "infra_place",
    "live_prices",
    "options",
    "own_code",
    "planning",
    "progress",
    "range_tests",
    "runs",
}
"""Modules of the folder that are no command."""


def test_every_command_module_is_in_the_table_and_the_other_way_round() -> None:
    modules = {module.name for module in pkgutil.iter_modules(cli.__path__)}
    assert modules - FURNITURE == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name: str) -> None:
    module = importlib.import_module(f"gpuplan.cli.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        return
    assert (inspect.getdoc(module.command) or "").count(".") >= 1
    assert "debug" in inspect.signature(module.command).parameters
