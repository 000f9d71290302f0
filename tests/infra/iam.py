"""Whether identity policies allow a request, by IAM's documented rules, for what the template's policies use.

An operator or element it does not know is an error, never a guess.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

Context = dict[str, Any]
"""Condition keys of a request: text, or a list of texts for a key with many values; keys are looked up in any case."""


def allows(policy: dict[str, Any], action: str, resource: str, context: Context | None = None) -> bool:
    """Tell whether a policy document allows an action on a resource: an allow that matches, and no deny."""
    keys = {key.lower(): value for key, value in (context or {}).items()}
    effects = {s["Effect"] for s in policy["Statement"] if _matches(s, action, resource, keys)}
    return effects == {"Allow"}


def _matches(statement: dict[str, Any], action: str, resource: str, context: Context) -> bool:
    unknown = statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if unknown:
        raise NotImplementedError(str(unknown))
    return (
        any(_like(action.lower(), pattern.lower()) for pattern in _listed(statement["Action"]))
        and any(_like(resource, pattern) for pattern in _listed(statement["Resource"]))
        and all(
            _holds(operator, context.get(key.lower()), [str(value) for value in _listed(wanted)])
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, found: Any, wanted: list[str]) -> bool:  # noqa: ANN401 - text, a list of it, or None
    if operator == "Null":
        return (found is None) == (wanted == ["true"])
    if operator.endswith("IfExists"):
        return found is None or _holds(operator.removesuffix("IfExists"), found, wanted)
    if operator.startswith("ForAllValues:"):
        every = _listed(found) if found is not None else []
        return all(_holds(operator.removeprefix("ForAllValues:"), value, wanted) for value in every)
    if found is None:
        return False
    value = str(found)
    if operator == "StringEquals":
        return value in wanted
    if operator == "StringLike":
        return any(_like(value, pattern) for pattern in wanted)
    if operator == "Bool":
        return value.lower() in wanted
    if operator == "NumericLessThanEquals":
        return any(float(value) <= float(bound) for bound in wanted)
    raise NotImplementedError(operator)


def _like(value: str, pattern: str) -> bool:
    """Match IAM's wildcards, `*` and `?`; brackets are no wildcards there."""
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), value) is not None


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - one or a list of them
    return value if isinstance(value, list) else [value]
