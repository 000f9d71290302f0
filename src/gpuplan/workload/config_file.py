"""The text of a fresh gpuplan.toml and of the JSON Schema beside it, both made from `workload.schema`.

Called by `gpuplan init`. It returns text and writes nothing; it must not hold a list of settings of its own.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from gpuplan.workload.schema import SECTIONS, SettingField, setting_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

SCHEMA_FILE = "gpuplan.schema.json"
_WIDTH = 100
_DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest draft that TOML editors understand in full."""
_KEYWORDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
"""pydantic leaves bounds under its own names where a type reads more than one kind of value, such as money."""
_HEAD = """\
#:schema ./{schema}
# Settings of gpuplan in this folder. Every setting is here, commented out at its default; where it has none of its own,
# at an example. To change one, remove the # before it. Editors that know #:schema complete and check the values.
#
# A flag (given in brackets) goes over its environment variable (--lr-rule is GPUPLAN_LR_RULE), that over this file,
# and this file over the instance profile. `gpuplan plan --debug` shows where each value came from.
"""


def config_text(instance_defaults: Mapping[str, object]) -> str:
    """Return a gpuplan.toml that sets nothing: each setting with its help, commented out.

    `instance_defaults` are the values of an instance profile, by field name, for the settings that have no default
    of their own.

    Raises:
        KeyError: a setting that must come from the profile is not in `instance_defaults`.
    """
    lines = [_HEAD.format(schema=SCHEMA_FILE)]
    for section, model in SECTIONS.items():
        lines += [f"[{section}]", f"# {inspect.getdoc(model)}", ""]
        for field in setting_fields():
            if field.section == section:
                lines += [*_setting(field, model.model_fields[field.name], instance_defaults), ""]
    return "\n".join(lines)


def config_schema() -> str:
    """Return the JSON Schema of gpuplan.toml: any part of the settings, no unknown section or key."""
    document = {
        "$schema": _DIALECT,
        "title": "gpuplan.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {section: _table(model.model_json_schema()) for section, model in SECTIONS.items()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def value_shown(name: str, info: FieldInfo, instance_defaults: Mapping[str, object]) -> object:
    """Return the value that stands in the file: the default or, where a setting has none of its own, an example.

    The example is the schema's own; failing that, the profile's value or the smallest allowed.
    """
    if info.is_required():
        return info.examples[0] if info.examples else instance_defaults[name]
    if info.default not in (None, (), {}):
        return info.default
    if info.examples:
        return info.examples[0]
    return next((item.ge for item in info.metadata if getattr(item, "ge", None) is not None), 1)


def _setting(field: SettingField, info: FieldInfo, instance_defaults: Mapping[str, object]) -> Iterator[str]:
    yield from textwrap.wrap(
        f"{field.help}{_choices(field)} ({field.flag})",
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    if info.is_required():
        yield "# Default: from the instance profile (gpuplan profiles show NAME). The value here is an example."
    elif info.default in (None, (), {}):
        yield "# Default: not set. The value here is an example."
    yield f"#{field.name} = {_toml(value_shown(field.name, info, instance_defaults))}"


def _choices(field: SettingField) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if all(choice in field.help for choice in choices):
        return ""
    return f" One of {', '.join(choices)}."


def _toml(value: object) -> str:
    """Return a number, a string or a list of them as TOML; a basic string of TOML escapes as JSON does."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float | Decimal):
        raise TypeError(f"no setting is written as {type(value).__name__}")
    return str(value)


def _table(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section with nothing required: the other layers fill what the file leaves out."""
    properties = {name: _key(value) for name, value in schema["properties"].items()}
    kept = {key: value for key, value in schema.items() if key not in {"required", "title"}}
    return {**kept, "properties": properties}


def _key(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a setting without null, which TOML does not have."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    said = {key: value for key, value in schema.items() if key not in {"title", "anyOf"}}
    if said.get("default", ...) is None:
        del said["default"]
    said |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
    return {_KEYWORDS.get(key, key): value for key, value in said.items()}
