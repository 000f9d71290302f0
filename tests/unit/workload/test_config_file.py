"""The generated gpuplan.toml and its schema say what the settings are, no more and no less."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import Field

from gpuplan.core.frozen import Frozen
from gpuplan.workload.config_file import SCHEMA_FILE, config_schema, config_text, value_shown
from gpuplan.workload.load import Layers, read_config, validate
from gpuplan.workload.schema import SECTIONS, setting_fields

if TYPE_CHECKING:
    from pathlib import Path

INSTANCE: dict[str, object] = {
    "backend": "local",
    "region": "none",
    "per_gpu_batch": 32,
    "precision": "fp32",
}
INSTANCE_KEYS = {
    "launch.backend": "local",
    "aws.region": "none",
    "workload.per_gpu_batch": 32,
    "workload.precision": "fp32",
}
EVERY_FIELD = pytest.mark.parametrize("field", setting_fields(), ids=lambda field: field.key)


class Unset(Frozen):
    """Settings without a default."""

    example: int | None = Field(default=None, ge=4, examples=[224])
    bounded: int | None = Field(default=None, ge=4)
    free: float | None = None


def uncommented(text: str, name: str = r"\w+") -> str:
    return re.sub(rf"^#(?={name} = )", "", text, flags=re.MULTILINE)


def properties(section: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(config_schema())["properties"][section]["properties"]
    return table


def settings_of(path: Path, text: str) -> Layers:
    path.write_text(text, encoding="utf-8")
    layers = Layers()
    layers.add(INSTANCE_KEYS, "profile local")
    layers.add(read_config(path), str(path))
    validate(layers)
    return layers


def test_fresh_file_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gpuplan.toml"
    path.write_text(config_text(INSTANCE), encoding="utf-8")
    assert read_config(path) == {}


def test_first_line_names_the_schema_beside_it() -> None:
    assert config_text(INSTANCE).splitlines()[0] == f"#:schema ./{SCHEMA_FILE}"


@EVERY_FIELD
def test_each_setting_stands_once_with_its_help_and_flag(field: Any) -> None:  # noqa: ANN401 - pytest's parameter
    text = config_text(INSTANCE)
    section = text.split(f"\n[{field.section}]\n")[1].split("\n[")[0]
    assert len(re.findall(rf"^#{field.name} = ", section, flags=re.MULTILINE)) == 1
    words = " ".join(line.removeprefix("# ") for line in section.splitlines())
    assert field.help in words
    assert f"({field.flag})" in words


@EVERY_FIELD
def test_each_line_alone_is_a_valid_setting(field: Any, tmp_path: Path) -> None:  # noqa: ANN401 - pytest's parameter
    text = config_text(INSTANCE)
    layers = settings_of(tmp_path / "gpuplan.toml", uncommented(text, field.name))
    assert layers.origins[field.key].endswith("gpuplan.toml")


def test_all_lines_together_are_valid_and_cover_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "gpuplan.toml"
    settings_of(path, uncommented(config_text(INSTANCE)))
    assert list(read_config(path)) == [field.key for field in setting_fields()]


def test_settings_with_a_default_show_it() -> None:
    values = tomllib.loads(uncommented(config_text(INSTANCE)))
    for section, model in SECTIONS.items():
        for name, info in model.model_fields.items():
            if not info.is_required() and info.default not in (None, (), {}):
                default = list(info.default) if isinstance(info.default, tuple) else info.default
                assert values[section][name] == default, name


@EVERY_FIELD
def test_setting_that_depends_on_the_instance_says_so_and_no_other(field: Any) -> None:  # noqa: ANN401 - pytest's parameter
    lines = config_text(INSTANCE).split(f"[{field.section}]")[1].splitlines()
    above = lines[next(i for i, line in enumerate(lines) if line.startswith(f"#{field.name} = ")) - 1]
    assert ("from the instance profile" in above) == (field.key in INSTANCE_KEYS)


def test_profile_without_a_value_that_only_it_can_give_is_refused() -> None:
    with pytest.raises(KeyError, match="precision"):
        config_text({key: value for key, value in INSTANCE.items() if key != "precision"})


def test_unset_setting_shows_the_schemas_example_before_the_smallest_value() -> None:
    fields = Unset.model_fields
    assert value_shown("example", fields["example"], {}) == 224
    assert value_shown("bounded", fields["bounded"], {}) == 4
    assert value_shown("free", fields["free"], {}) == 1


def test_comments_fit_an_editor_window() -> None:
    assert max(map(len, config_text(INSTANCE).splitlines())) <= 120


def test_schema_requires_nothing_and_knows_no_stranger() -> None:
    document = json.loads(config_schema())
    tables = [document, *document["properties"].values()]
    assert all(table["additionalProperties"] is False for table in tables)
    assert "required" not in json.dumps(document)
    assert {f"{s}.{name}" for s in document["properties"] for name in properties(s)} == {
        field.key for field in setting_fields()
    }


def test_schema_uses_what_toml_editors_understand() -> None:
    text = config_schema()
    assert "null" not in text, "TOML has no null"
    assert "$ref" not in text
    assert not re.search(r'"(gt|ge|lt|le)":', text), "not JSON Schema"


@EVERY_FIELD
def test_schema_carries_help_and_default(field: Any) -> None:  # noqa: ANN401 - pytest's parameter
    entry = properties(field.section)[field.name]
    info = SECTIONS[field.section].model_fields[field.name]
    assert entry["description"] == field.help
    assert ("default" in entry) == (not info.is_required() and info.default is not None)


@pytest.mark.parametrize(
    ("section", "name", "default"),
    [("launch", "spot", False), ("aws", "network_isolation", True), ("aws", "wheels", True)],
)
def test_switches_are_toml_booleans_and_json_booleans(tmp_path: Path, section: str, name: str, default: bool) -> None:  # noqa: FBT001 - pytest's parameter
    assert f"#{name} = {str(default).lower()}\n" in config_text(INSTANCE)
    assert properties(section)[name] | {"description": ""} == {"type": "boolean", "default": default, "description": ""}
    layers = settings_of(tmp_path / "gpuplan.toml", f"[{section}]\n{name} = {str(not default).lower()}\n")
    assert layers.values[f"{section}.{name}"] is not default


def test_a_setting_without_a_default_of_its_own_shows_an_example_that_is_no_secret() -> None:
    values = tomllib.loads(uncommented(config_text(INSTANCE)))["aws"]
    assert "123456789012" in values["role_arn"], "the account that AWS's own examples use"
    assert "123456789012" in values["bucket"]
    assert values["prefix"] == values["stack"] == "gpuplan"


def test_schema_carries_choices_and_bounds() -> None:
    assert properties("launch")["nodes"] | {"description": ""} == {
        "type": "integer",
        "default": 1,
        "minimum": 1,
        "maximum": 64,
        "description": "",
    }
    assert properties("launch")["max_hours"]["exclusiveMinimum"] == 0
    assert properties("aws")["role_arn"]["pattern"].startswith("^arn:aws")
    assert properties("workload")["optimizer"]["enum"] == ["sgd", "adamw", "lamb", "own"]
    assert properties("workload")["accumulate"]["maximum"] == 16
    assert properties("launch")["max_cost"]["exclusiveMinimum"] == 0
