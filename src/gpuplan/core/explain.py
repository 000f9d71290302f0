"""What pydantic found wrong, in plain sentences: which key, what it needs, the near spelling.

Called where a file or a setting is read from outside; it reads nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from gpuplan.core.names import did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_SHOWN = 60


def complaints(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one sentence for each fault, each starting with the dotted key; entries of a list count from 1."""
    return [_sentence(item, model) for item in error.errors(include_url=False)]


def _sentence(item: ErrorDetails, model: type[BaseModel]) -> str:
    key = _key(item["loc"])
    if item["type"] == "extra_forbidden":
        table = _model_at(model, item["loc"][:-1])
        return f"{key}: unknown key; {did_you_mean(str(item['loc'][-1]), table.model_fields if table else ())}"
    if item["type"] == "missing":
        return f"{key}: missing"
    if item["type"] == "value_error":
        message = item["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    return f"{key} = {shown(item['input'])}: {rule_broken(item)}"


def rule_broken(item: ErrorDetails) -> str:
    """Return what a value had to be, as the second half of a sentence."""
    message = item["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def shown(value: object) -> str:
    """Return a value as a message quotes it, cut with a sign where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of over 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _key(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Follow a location through nested models, looking into `X | None` and `tuple[X, ...]`."""
    current = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        inside = _nested(field.annotation) if field else None
        if inside is None:
            return None
        current = inside
    return current


def _nested(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_nested, get_args(annotation)) if found), None)
