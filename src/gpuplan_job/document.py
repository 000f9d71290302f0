"""Strict JSON for frozen dataclasses: exact keys, exact types, finite numbers, no duplicate keys, a named schema.

The machinery under `contract`; standard library only. It knows no document by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints


class ContractError(ValueError):
    """A document does not have the shape, the run or the finite numbers it must have."""


@dataclass(frozen=True)
class Document:
    """Base of every file that crosses the door; `SCHEMA` names its version."""

    SCHEMA: ClassVar[str] = ""

    def to_json(self) -> str:
        """Return canonical JSON (sorted keys, no NaN or Infinity) with the schema's name in it.

        Raises:
            ContractError: a number is not finite.
        """
        return canonical_json({"schema": self.SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document strictly: schema, exact keys, exact types, finite numbers, no duplicate keys.

        Raises:
            ContractError: whatever is wrong, with the path of the field.
        """
        raw = parse_json(text)
        if not isinstance(raw, dict):
            raise ContractError(f"expected a JSON object, found {type(raw).__name__}")
        found = raw.pop("schema", None)
        if found != cls.SCHEMA:
            raise ContractError(f"expected schema {cls.SCHEMA!r}, found {found!r}")
        return typing.cast("Self", _build(cls, raw, cls.__name__))


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON is whatever it is
    """Return the value of a JSON text that has no NaN or Infinity and no key twice in one object.

    Raises:
        ContractError: it is no such text.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except ContractError:
        raise
    except (ValueError, RecursionError) as error:
        raise ContractError(f"not JSON: {error}") from error


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN; what digests are taken of."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ContractError(f"not JSON: {error}") from error


def sha256_hex(text: str | bytes) -> str:
    """Return the hex sha256 of a text (UTF-8) or bytes."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def _refuse_constant(name: str) -> object:
    raise ContractError(f"{name} is not a number a result may hold")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ContractError("a key stands twice in one object")
    return result


def _build(kind: type, raw: dict[str, Any], path: str) -> object:
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(raw) - set(fields))
    if unknown:
        raise ContractError(f"{path}: unknown key {unknown[0]!r}")
    values: dict[str, object] = {}
    for name, spec in fields.items():
        if name in raw:
            values[name] = _coerce(hints[name], raw[name], f"{path}.{name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ContractError(f"{path}: key {name!r} is missing")
    return kind(**values)


def _finite(raw: float, path: str) -> float:
    try:
        value = float(raw)
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise ContractError(f"{path}: not a finite number")
    return value


def _coerce(hint: Any, raw: object, path: str) -> object:  # noqa: ANN401 - a type hint has no narrower type
    """Check `raw` against a type hint made of the few forms this module uses."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if raw is None else _coerce(next(a for a in args if a is not type(None)), raw, path)
    if origin is Literal:
        if raw not in args:
            raise ContractError(f"{path}: {raw!r} is not one of {', '.join(map(repr, args))}")
        return raw
    if dataclasses.is_dataclass(hint) and isinstance(raw, dict):
        return _build(typing.cast("type", hint), raw, path)
    if origin is list and isinstance(raw, list):
        return [_coerce(args[0], item, f"{path}[{i}]") for i, item in enumerate(raw)]
    if origin is tuple and isinstance(raw, list) and len(raw) == len(args):
        return tuple(_coerce(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(args, raw, strict=True)))
    if origin is dict and isinstance(raw, dict):
        return {key: _coerce(args[1], item, f"{path}.{key}") for key, item in raw.items()}
    if hint is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        return _finite(raw, path)
    if hint is Any or (hint in (bool, int, str) and type(raw) is hint):
        return raw
    wanted = getattr(hint, "__name__", str(hint))
    raise ContractError(f"{path}: expected {wanted}, found {type(raw).__name__}")
