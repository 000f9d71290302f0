"""Kinds of values that a setting may have and that a flag or a variable writes as text: money, lists, JSON objects.

Used by `workload.schema`. What is neither the text nor the value is left for pydantic to refuse.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from gpuplan_job.contract import LoggerName


def _decimal(value: object) -> object:
    """Let TOML and flags write 12.5 for a Decimal, through its shortest decimal text, never its binary expansion."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError("must be an amount in dollars, such as 12.50") from error


Usd = Annotated[Decimal, BeforeValidator(_decimal)]


def _once(value: object) -> object:
    """Return a list without what stands there before."""
    # By repr: 1, 1.0 and true are equal, and two of them are refused for what they are.
    return tuple({repr(item): item for item in value}.values()) if isinstance(value, list | tuple) else value


def _whole_numbers(value: object) -> object:
    """Let flags and variables write 32,64,128 for what is a list in TOML; a number that stands twice counts once."""
    if isinstance(value, str):
        try:
            value = [int(part) for part in value.split(",") if part.strip()]
        except ValueError as error:
            raise ValueError("must be whole numbers with commas between them, such as 32,64,128") from error
    return _once(value)


def _texts(value: object) -> object:
    """Let flags and variables write `data/*.npz,notes/` for what is a list in TOML; each counts once."""
    return _once([part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value)


Patterns = Annotated[tuple[str, ...], BeforeValidator(_texts)]
WholeNumbers = Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], BeforeValidator(_whole_numbers)]


def _texts_or_none(value: object) -> object:
    """Let them write `none` for an empty list too, where no value has that name."""
    return () if isinstance(value, str) and value.strip() == "none" else _texts(value)


LoggerNames = Annotated[tuple[LoggerName, ...], BeforeValidator(_texts_or_none)]


def _arguments(value: object) -> object:
    """Let flags and variables write a JSON object for what is a table in TOML; only what JSON can say is taken."""
    try:
        return json.loads(value) if isinstance(value, str) else json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError('must be a JSON object of plain values, such as {"width": 64}') from error


Arguments = Annotated[dict[str, Any], BeforeValidator(_arguments)]
