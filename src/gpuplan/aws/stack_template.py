"""The shipped CloudFormation template: its text, and what it would create and may be told, read without AWS.

Called by `stack_changes` and `gpuplan infra`. It reads one file and knows nothing of what stands in an account.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = "gpuplan.yaml"
_SECTION = re.compile(r"(\w+):")
_ENTRY = re.compile(r"  (\w+):")
_SCALAR = re.compile(r"    (?:  )?(Type|Default|Description|Condition|Purpose): (.+)")


@dataclass(frozen=True)
class Parameter:
    """One thing the template may be told."""

    name: str
    default: str
    description: str


@dataclass(frozen=True)
class Resource:
    """One thing the template creates."""

    logical_id: str
    resource_type: str
    purpose: str
    condition: str
    """Name of the template's condition under which it is created; empty: always."""


def path() -> Path:
    """Return the template's file: in the installed package, or at the root of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "infra" / _FILE
    return installed if installed.is_file() else package.parents[1] / "infra" / _FILE


def text() -> str:
    """Return the template as it is sent to CloudFormation."""
    return path().read_text(encoding="utf-8")


def parameters() -> tuple[Parameter, ...]:
    """Return the template's parameters in its order."""
    return tuple(
        Parameter(name, found["Default"], found["Description"]) for name, found in _entries(text(), "Parameters")
    )


def resources() -> tuple[Resource, ...]:
    """Return what the template creates, in its order."""
    return tuple(
        Resource(name, found["Type"], found["Purpose"], found.get("Condition", ""))
        for name, found in _entries(text(), "Resources")
    )


def _entries(template: str, wanted: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the entries of one section with the scalars that stand at the top of each.

    YAML has no reader in the standard library, and our own file does not need one: a test holds this against a real
    one, so a template that it would misread does not ship.
    """
    section, name = "", ""
    found: dict[str, str] = {}
    for line in template.splitlines():
        if heading := _SECTION.match(line):
            section = heading[1]
        elif section == wanted and (entry := _ENTRY.fullmatch(line)):
            if name:
                yield name, found
            name, found = entry[1], {}
        elif section == wanted and (scalar := _SCALAR.fullmatch(line)):
            key, value = scalar.groups()
            # A quoted scalar of this file is a JSON string too. The first of a name is the entry's own.
            found.setdefault(key, json.loads(value) if value.startswith('"') else value)
    if name:
        yield name, found
