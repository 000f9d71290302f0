"""Layers: the later one wins, each value knows where it came from, and a bad one is named with its origin."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.errors import UsageError
from gpuplan.workload.load import Layers, read_config, validate

if TYPE_CHECKING:
    from pathlib import Path

PROFILE: dict[str, object] = {
    "launch.backend": "local",
    "aws.region": "none",
    "workload.per_gpu_batch": 32,
    "workload.precision": "fp32",
    "workload.workers": 0,
}
KEYS = st.sampled_from(["workload.epochs", "workload.seed", "lr.runs", "lr.rule"])
LAYER = st.dictionaries(KEYS, st.integers(1, 9))


def layers(values: dict[str, object], origin: str = "the test") -> Layers:
    made = Layers()
    made.add(PROFILE, "profile local")
    made.add(values, origin)
    return made


def config(folder: Path, text: str | bytes) -> Path:
    path = folder / "gpuplan.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@given(st.lists(LAYER, max_size=4))
def test_the_last_layer_that_has_a_value_wins_and_is_its_origin(stack: list[dict[str, object]]) -> None:
    made = Layers()
    for place, values in enumerate(stack):
        made.add(values, f"layer {place}")
    assert made.values.keys() == made.origins.keys() == {key for values in stack for key in values}
    for key, value in made.values.items():
        winner = max(place for place, values in enumerate(stack) if key in values)
        assert (value, made.origins[key]) == (stack[winner][key], f"layer {winner}")


def test_each_value_of_a_layer_may_have_an_origin_of_its_own() -> None:
    made = Layers()
    made.add({"lr.rule": "edge", "lr.runs": 2}, {"lr.rule": "--lr-rule", "lr.runs": "GPUPLAN_RUNS"})
    assert made.origins == {"lr.rule": "--lr-rule", "lr.runs": "GPUPLAN_RUNS"}


def test_adding_a_layer_leaves_the_given_mapping_alone() -> None:
    given_values: dict[str, object] = {"lr.runs": 2}
    made = Layers()
    made.add(given_values, "x")
    made.add({"lr.runs": 3}, "y")
    assert given_values == {"lr.runs": 2}


def test_layers_that_add_up_are_settings() -> None:
    settings = validate(layers({"workload.epochs": 3, "launch.max_cost": 12.5, "lr.learning_rate": 1}))
    assert (settings.workload.epochs, settings.workload.per_gpu_batch) == (3, 32)
    assert settings.launch.max_cost == Decimal("12.5")
    assert settings.lr.learning_rate == 1.0


def test_what_no_layer_gives_and_has_no_default_is_named() -> None:
    made = Layers()
    made.add({key: value for key, value in PROFILE.items() if key != "workload.precision"}, "profile local")
    with pytest.raises(UsageError, match="--precision"):
        validate(made)


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("workload.epochs", 0, "--epochs = 0"),
        ("workload.epochs", True, "--epochs = True"),
        ("workload.epochs", 2.5, "--epochs = 2.5"),
        ("workload.epochs", "3", "--epochs = '3'"),
        ("workload.optimizer", "lion", "--optimizer = 'lion'"),
        ("workload.seed", 2**31, "--seed"),
        ("lr.learning_rate", float("inf"), "--lr = inf"),
        ("lr.rule", 3, "--lr-rule = 3"),
        ("launch.max_cost", "lots", "--max-cost = 'lots'"),
        ("launch.world_size", 4097, "--world-size = 4097"),
        ("workload.data", "x" * 500, None),
    ],
)
def test_a_bad_value_is_named_with_its_flag_its_text_and_its_origin(key: str, value: object, flag: str | None) -> None:
    made = layers({key: value}, "gpuplan.toml")
    if flag is None:
        assert validate(made).workload.data == value
        return
    with pytest.raises(UsageError) as caught:
        validate(made)
    assert flag in caught.value.what
    assert "(from gpuplan.toml)" in caught.value.what
    assert flag.split()[0] in caught.value.fix
    assert "pydantic" not in caught.value.what + caught.value.why


def test_several_bad_values_are_all_told() -> None:
    with pytest.raises(UsageError) as caught:
        validate(layers({"workload.epochs": 0, "lr.runs": 0}))
    told = caught.value.what + caught.value.why
    assert "--epochs" in told
    assert "--runs" in told


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.1), (0.5, 0.5), (20.0, 10.0)])
def test_a_sweep_that_does_not_rise_is_refused(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="not below"):
        validate(layers({"lr.lr_min": low, "lr.lr_max": high}))


def test_a_file_becomes_dotted_keys(tmp_path: Path) -> None:
    path = config(tmp_path, '[workload]\nepochs = 3\nmodel = "vgg16"\n[lr]\nruns = 2\n')
    assert read_config(path) == {"workload.epochs": 3, "workload.model": "vgg16", "lr.runs": 2}
    assert read_config(config(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[launch]\n[workload\n", "line 2"),
        ("[lunch]\n", "did you mean 'launch'"),
        ("[workload]\nepoch = 3\n", "did you mean 'epochs'"),
        ("epochs = 3\n", "unknown section [epochs]"),
        ("lr = 0.1\n", "[lr] must be a table"),
        (b"[workload]\nmodel = '\xff'\n", "not UTF-8"),
        (b"\x00", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("# " + "x" * 1_000_001, "over 1 MB"),
        ("[workload]\nseed = " + "9" * 5000, "not valid TOML"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_file_that_is_no_configuration_is_refused_in_words(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = config(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert str(path) in caught.value.what
    assert says in f"{caught.value.what} {caught.value.why}"


def test_a_number_too_long_to_print_is_refused_in_words(tmp_path: Path) -> None:
    # Hexadecimal digits have no limit when read, decimal ones have when shown.
    values = read_config(config(tmp_path, "[workload]\nseed = 0x" + "f" * 5000))
    with pytest.raises(UsageError, match="--seed"):
        validate(layers(values, "gpuplan.toml"))


def test_a_file_that_is_not_there_or_is_a_folder_is_refused_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(UsageError, match="cannot read") as caught:
            read_config(path)
        assert caught.value.fix == "gpuplan init"
