"""From layers to settings: profile defaults < gpuplan.toml < GPUPLAN_* < flags, each value's origin kept.

Called by the command line. It reads one TOML file and the mapping it is handed; it never looks at os.environ itself.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from gpuplan.core.errors import UsageError
from gpuplan.core.explain import rule_broken, shown
from gpuplan.core.names import did_you_mean
from gpuplan.workload.schema import SECTIONS, Settings, setting_fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpuplan.core.frozen import Frozen

S = TypeVar("S", bound="Frozen")

CONFIG_FILE = "gpuplan.toml"
_MAX_CONFIG_BYTES = 1_000_000


@dataclass
class Layers:
    """Values by dotted key, later layers over earlier ones, with the origin of each."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, values: Mapping[str, object], origin: str | Mapping[str, str]) -> None:
        """Lay values over what is there; `origin` is one text for all or a text for each key."""
        for key, value in values.items():
            self.values[key] = value
            self.origins[key] = origin if isinstance(origin, str) else origin[key]


def read_config(path: Path) -> dict[str, object]:
    """Read a gpuplan.toml into dotted keys.

    Raises:
        UsageError: unreadable, not TOML (with line and column), an unknown section or key.
    """
    document = _parsed(path)
    values: dict[str, object] = {}
    for section, content in document.items():
        if section not in SECTIONS:
            raise UsageError(f"{path}: unknown section [{section}]", why=did_you_mean(section, SECTIONS))
        if not isinstance(content, dict):
            raise UsageError(f"{path}: [{section}] must be a table", why=f"found {type(content).__name__}")
        for name, value in content.items():
            if name not in SECTIONS[section].model_fields:
                known = SECTIONS[section].model_fields
                raise UsageError(f"{path}: unknown key {name!r} in [{section}]", why=did_you_mean(name, known))
            values[f"{section}.{name}"] = value
    return values


def _parsed(path: Path) -> dict[str, object]:
    fix = "gpuplan init --force writes a fresh commented one"
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read {path}", why="it is not a file", fix="gpuplan init")
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise UsageError(f"{path} is over 1 MB: not a gpuplan configuration", fix=fix)
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read {path}", why=error.strerror or str(error), fix="gpuplan init") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", why=str(error), fix=fix) from error
    except (ValueError, RecursionError) as error:  # not TOML, or a number of thousands of digits
        raise UsageError(f"{path} is not valid TOML", why=str(error), fix=fix) from error


def validate(layers: Layers) -> Settings:
    """Return the settings the layers add up to.

    Raises:
        UsageError: a value is out of range or of the wrong type; names the setting, its origin and the rule it breaks.
    """
    nested: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in layers.values.items():
        section, name = key.split(".")
        nested[section][name] = value
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise _explain(error, layers) from error
    if settings.lr.lr_min and settings.lr.lr_max and settings.lr.lr_min >= settings.lr.lr_max:
        raise UsageError(
            f"--lr-min {settings.lr.lr_min} is not below --lr-max {settings.lr.lr_max}",
            why="the range test sweeps upwards from the first to the second",
            fix="leave both out for 1e-05 .. 10",
        )
    return settings


def validate_section(layers: Layers, model: type[S]) -> S:
    """Return the one section that the layers add up to, for commands that need no more.

    Raises:
        UsageError: as `validate`.
    """
    section = next(name for name, kind in SECTIONS.items() if kind is model)
    values = {key.partition(".")[2]: value for key, value in layers.values.items() if key.startswith(f"{section}.")}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, layers, section) from error


def _explain(error: ValidationError, layers: Layers, section: str = "") -> UsageError:
    fields = {f.key: f for f in setting_fields()}
    lines = []
    fix = ""
    for item in error.errors(include_url=False):
        location = (section, *item["loc"]) if section else item["loc"]
        key = ".".join(str(part) for part in location[:2])
        setting = fields[key]
        origin = layers.origins.get(key, "default")
        lines.append(f"{setting.flag} = {shown(item['input'])} (from {origin}): {rule_broken(item)}")
        fix = fix or f"{setting.flag}: {setting.help}"
    return UsageError(lines[0], why="; ".join(lines[1:]), fix=fix)
