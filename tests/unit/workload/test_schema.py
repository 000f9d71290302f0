"""Every setting stands once, with a flag, a variable and a help of its own, and a default that is valid."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.workload.schema import SECTIONS, Aws, Launch, SettingField, Settings, setting_fields

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

FIELDS = setting_fields()
EVERY_FIELD = pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.key)
FROM_THE_PROFILE = {
    "launch.backend",
    "aws.region",
    "workload.per_gpu_batch",
    "workload.precision",
}

REQUIRED: dict[str, dict[str, object]] = {
    "launch": {"backend": "local"},
    "aws": {"region": "none"},
    "workload": {"per_gpu_batch": 1, "precision": "fp32", "workers": 0},
    "lr": {},
    "code": {},
    "find_batch": {},
}
"""What a section needs to be valid at all."""


def info(field: SettingField) -> FieldInfo:
    return SECTIONS[field.section].model_fields[field.name]


def kinds(annotation: object) -> set[object]:
    """Return the types an annotation is made of."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    inner = get_args(annotation)
    return {kind for part in inner for kind in kinds(part)} if inner else {annotation}


def launch(max_cost: object) -> Launch:
    return Launch.model_validate({**REQUIRED["launch"], "max_cost": max_cost})


@EVERY_FIELD
def test_a_setting_explains_itself_in_a_sentence(field: SettingField) -> None:
    assert re.fullmatch(r"[A-Za-z].*[.)]", field.help, flags=re.DOTALL)
    assert "\n" not in field.help


@EVERY_FIELD
def test_a_setting_has_a_flag_and_a_variable_that_a_shell_takes(field: SettingField) -> None:
    assert re.fullmatch(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*", field.flag)
    assert re.fullmatch(r"GPUPLAN_[A-Z0-9]+(_[A-Z0-9]+)*", field.variable)


@pytest.mark.parametrize("name", ["flag", "variable", "key"])
def test_no_two_settings_share_a_name(name: str) -> None:
    found = [getattr(field, name) for field in FIELDS]
    assert len(set(found)) == len(found)


def test_no_setting_takes_a_flag_or_a_variable_that_means_something_else() -> None:
    taken = {"--output", "--out", "--debug", "--config", "--plan", "--yes", "--dry-run", "--allow-retired", "--help"}
    assert not taken & {field.flag for field in FIELDS}
    assert not {"GPUPLAN_HOME", "GPUPLAN_DEBUG", "GPUPLAN_FAILPOINT"} & {field.variable for field in FIELDS}


@EVERY_FIELD
def test_a_setting_without_a_default_is_one_that_the_profile_gives(field: SettingField) -> None:
    assert info(field).is_required() == (field.key in FROM_THE_PROFILE)


@EVERY_FIELD
def test_a_default_and_an_example_are_valid(field: SettingField) -> None:
    found = info(field)
    values = [] if found.is_required() else [found.default]
    for value in [*values, *(found.examples or [])]:
        SECTIONS[field.section].model_validate({**REQUIRED[field.section], field.name: value})


@EVERY_FIELD
def test_money_is_never_a_float(field: SettingField) -> None:
    is_money = "cost" in field.name or "usd" in field.name or "USD" in field.help
    assert not is_money or kinds(field.annotation) - {type(None)} == {Decimal}


@given(st.decimals("0.01", "1e9", places=2))
def test_money_keeps_its_digits_from_a_flag_and_from_a_file(amount: Decimal) -> None:
    assert launch(str(amount)).max_cost == amount
    assert launch(amount).max_cost == amount


@given(st.floats(0.01, 1e9))
def test_a_float_of_a_file_is_the_dollars_that_stand_there(amount: float) -> None:
    found = launch(amount).max_cost
    assert found is not None
    assert str(found) == repr(amount), "not the float's binary expansion"


@pytest.mark.parametrize("amount", [0, -1, "0.00", "lots", "", "nan", "inf", "-inf", float("nan"), True, [1], "1,50"])
def test_what_is_no_amount_is_refused(amount: object) -> None:
    with pytest.raises(ValidationError):
        launch(amount)


def aws(**values: object) -> Aws:
    return Aws.model_validate({"region": "us-east-1", **values})


def test_the_role_has_the_variable_that_is_documented() -> None:
    role = next(field for field in FIELDS if field.key == "aws.role_arn")
    assert (role.flag, role.variable) == ("--role", "GPUPLAN_ROLE_ARN")


@pytest.mark.parametrize(
    "role",
    [
        "arn:aws:iam::123456789012:role/gpuplan",
        "arn:aws-us-gov:iam::123456789012:role/service-role/Gpuplan+=,.@-_x",
        "arn:aws-cn:iam::123456789012:role/x",
    ],
)
def test_a_role_is_an_arn_of_any_partition(role: str) -> None:
    assert aws(role_arn=role).role_arn == role


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("role_arn", "gpuplan"),
        ("role_arn", "arn:aws:iam::12345:role/x"),
        ("role_arn", "arn:aws:iam::123456789012:user/x"),
        ("role_arn", "arn:aws:iam::123456789012:role/x y"),
        ("bucket", "No_Such_Bucket"),
        ("bucket", "s3://bucket"),
        ("bucket", "ab"),
        ("bucket", "x" * 64),
        ("prefix", ""),
        ("prefix", "/gpuplan"),
        ("prefix", "gpuplan/"),
        ("prefix", "a//b"),
        ("prefix", "../other"),
        ("prefix", "a b"),
        ("stack", "1gpuplan"),
        ("stack", "gpu_plan"),
        ("image", ""),
        ("image", "x" * 256),
        ("image", "trainer:1 "),
        ("profile", ""),
        ("network_isolation", "yes"),
        ("network_isolation", 1),
        ("poll_seconds", 0),
        ("poll_seconds", 3601),
    ],
)
def test_what_aws_would_not_take_is_refused_before_aws_is_asked(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        aws(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("nodes", 0), ("nodes", 65), ("nodes", 2.0), ("spot", 1), ("spot", "true")]
)
def test_nodes_are_counted_and_spot_is_yes_or_no(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Launch.model_validate({**REQUIRED["launch"], name: value})


@pytest.mark.parametrize("hours", [0, -1.0, 28 * 24 + 0.1, float("nan"), float("inf"), "12"])
def test_a_time_limit_is_some_hours_of_at_most_28_days(hours: object) -> None:
    with pytest.raises(ValidationError):
        Launch.model_validate({**REQUIRED["launch"], "max_hours": hours})
    assert Launch.model_validate({**REQUIRED["launch"], "max_hours": 672}).max_hours == 672


def test_there_is_a_json_schema_of_all_settings() -> None:
    schema = Settings.model_json_schema()
    assert set(schema["properties"]) == set(SECTIONS)
    for name, model in SECTIONS.items():
        table = schema["$defs"][model.__name__]
        assert table["additionalProperties"] is False, name
        assert all(table["properties"][field]["description"] for field in model.model_fields)
    json.dumps(schema, allow_nan=False)


def test_sections_and_fields_are_the_settings_no_more_and_no_less() -> None:
    assert list(SECTIONS) == list(Settings.model_fields)
    assert [field.key for field in FIELDS] == [
        f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields
    ]


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ("csv, mlflow", ("csv", "mlflow")),
        (["wandb", "csv", "wandb"], ("wandb", "csv")),
        ("none", ()),
        ("", ()),
    ],
)
def test_loggers_are_names_with_commas_or_a_list_each_once(told: object, names: tuple[str, ...]) -> None:
    assert Launch.model_validate({"backend": "local", "loggers": told}).loggers == names


@pytest.mark.parametrize("told", ["csv,comet", "csv,none", ["comet"], [["csv"]]], ids=str)
def test_a_logger_nobody_knows_is_refused(told: object) -> None:
    with pytest.raises(ValidationError, match="'csv', 'tensorboard', 'mlflow' or 'wandb'"):
        Launch.model_validate({"backend": "local", "loggers": told})
