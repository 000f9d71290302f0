"""The constraints of AWS's own service model (lengths, ranges, patterns, enums), which the server enforces.

botocore checks only a few of them before it sends. Called by the training-job API with the body as received; pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from gpuplan.testing.clients import session
from gpuplan.testing.errors import ApiError, invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (int, float),
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
}


@cache
def service_model() -> dict[str, Any]:
    """Return botocore's description of SageMaker."""
    return dict(session().get_component("data_loader").load_service_model("sagemaker", "service-2"))


def members(shape: str) -> frozenset[str]:
    """Return the member names of a structure of the model."""
    return frozenset(service_model()["shapes"][shape]["members"])


def check(shape: str, body: dict[str, Any]) -> None:
    """Raise AWS's ValidationException, naming every broken constraint, if the body does not fit the shape."""
    found = list(_violations(shape, body, ""))
    if found:
        plural = "s" if len(found) > 1 else ""
        raise invalid(f"{len(found)} validation error{plural} detected: {'; '.join(found)}")


def _violations(name: str, value: Any, path: str) -> Iterator[str]:  # noqa: ANN401 -- JSON
    shape = service_model()["shapes"][name]
    kind = shape["type"]
    _check_type(kind, value)
    for constraint in _own(shape, value):
        yield f"Value '{_shown(value)}' at '{path}' failed to satisfy constraint: {constraint}"
    if kind == "structure":
        yield from _structure(shape, value, path)
    elif kind == "list":
        for index, item in enumerate(value, 1):
            yield from _violations(shape["member"]["shape"], item, f"{path}.{index}.member")
    elif kind == "map":
        yield from _map(shape, value, path)


def _check_type(kind: str, value: object) -> None:
    if not isinstance(value, _JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise ApiError("SerializationException", f"{type(value).__name__} can not be converted to a {kind}")


def _structure(shape: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    for member in shape.get("required", ()):
        if value.get(member) is None:
            yield f"Value null at '{_join(path, member)}' failed to satisfy constraint: Member must not be null"
    for member, described in shape["members"].items():
        if value.get(member) is not None:
            yield from _violations(described["shape"], value[member], _join(path, member))


def _map(shape: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    shapes = service_model()["shapes"]
    for role, items in (("key", value.keys()), ("value", value.values())):
        inner = shapes[shape[role]["shape"]]
        for item in items:
            _check_type(inner["type"], item)
            if broken := list(_own(inner, item)):
                where = "Map keys" if role == "key" else "Map value"
                yield (
                    f"Value '{_shown(value)}' at '{path}' failed to satisfy constraint: "
                    f"{where} must satisfy constraint: [{', '.join(broken)}]"
                )
                break


def _own(shape: dict[str, Any], value: Any) -> Iterator[str]:  # noqa: ANN401 -- JSON
    if isinstance(value, bool):
        return
    sized = isinstance(value, (str, list, dict))
    size, what = (len(value), "length") if sized else (value, "value")
    if "enum" in shape and value not in shape["enum"]:
        yield f"Member must satisfy enum value set: [{', '.join(shape['enum'])}]"
    if "max" in shape and size > shape["max"]:
        yield f"Member must have {what} less than or equal to {shape['max']}"
    if "min" in shape and size < shape["min"]:
        yield f"Member must have {what} greater than or equal to {shape['min']}"
    if "pattern" in shape and isinstance(value, str) and not compiled(shape["pattern"]).fullmatch(value):
        yield f"Member must satisfy regular expression pattern: {shape['pattern']}"


@cache
def compiled(java_pattern: str) -> re.Pattern[str]:
    """Translate a pattern of the model, which is in Java's syntax."""
    spaces = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    classes = {
        r"\p{Alnum}": "a-zA-Z0-9",
        r"\p{L}": r"\w",
        r"\p{N}": r"\d",
        r"\p{M}": r"\u0300-\u036f",
        r"\p{Z}": spaces,
    }
    text = java_pattern
    for theirs, ours in classes.items():
        text = text.replace(theirs, ours)
    return re.compile(text)


def _join(path: str, member: str) -> str:
    name = member[0].lower() + member[1:]
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:  # noqa: ANN401 -- JSON
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={item}" for key, item in value.items()) + "}"
    return str(value)
