"""What a plan makes of a checked code: whose optimizer trains, what is refused, what is kept once a run starts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli.options import Given
from gpuplan.cli.own_code import OwnCode, add_own_optimizer, described, own_code, refuse_unusable
from gpuplan.cli.planning import over_defaults, resolve_profile, settled
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.own_code.package import pack
from gpuplan.workload.load import Layers
from gpuplan_job.code_check import CodeCheck, OwnOptimizer
from gpuplan_job.contract import DataDescription

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan.workload.schema import Settings

ADAM = OwnOptimizer("Adam", "adam", 0.0, 0.0, "learning_rate", follows=True)
FOUND = CodeCheck(DataDescription(4, 2, 1, 8, 8, 2, 0.0), [], "lightning", [], ADAM, "", [])
OWN: dict[str, object] = {"workload.model": "net:Net", "workload.data": "net:data"}


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnCode:
    (tmp_path / "net.py").write_text("class Net: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "home"))
    return OwnCode(pack(tmp_path, most_mb=1), FOUND)


def layers(values: dict[str, object]) -> Layers:
    said = Layers()
    said.add(values, "gpuplan.toml")
    return over_defaults(said, resolve_profile("local"))


def settings(values: dict[str, object]) -> Settings:
    return settled(layers(values))


def test_a_modules_own_optimizer_is_the_default_with_its_origin(packed: OwnCode) -> None:
    made = layers(OWN)
    assert add_own_optimizer(made, packed)
    assert made.values["workload.optimizer"] == made.values["workload.schedule"] == "own"
    assert made.origins["workload.optimizer"] == "net:Net's configure_optimizers"


def test_what_was_said_stays(packed: OwnCode) -> None:
    made = layers({**OWN, "workload.optimizer": "adamw"})
    assert not add_own_optimizer(made, packed)
    assert "workload.schedule" not in made.values
    made = layers({**OWN, "workload.schedule": "cosine"})
    assert add_own_optimizer(made, packed)
    assert (made.values["workload.optimizer"], made.values["workload.schedule"]) == ("own", "cosine")


def test_a_network_without_an_optimizer_gets_gpuplans(packed: OwnCode) -> None:
    made = layers(OWN)
    assert not add_own_optimizer(made, packed._replace(check=replace(FOUND, optimizer=None)))
    assert not add_own_optimizer(made, None)
    assert "workload.optimizer" not in made.values


def test_an_own_optimizer_that_does_not_follow_the_learning_rate_is_refused_with_what_to_do(packed: OwnCode) -> None:
    problem = "Net.configure_optimizers does not use Net.lr; build the optimizer with lr=self.lr"
    broken = packed._replace(check=replace(FOUND, optimizer_problem=problem))
    with pytest.raises(UsageError) as caught:
        refuse_unusable(settings({**OWN, "workload.optimizer": "own"}), broken)
    assert caught.value.what == "--optimizer own: net:Net: Net.configure_optimizers does not use Net.lr"
    assert caught.value.fix == "build the optimizer with lr=self.lr, or --optimizer adamw"
    refuse_unusable(settings({**OWN, "workload.optimizer": "adamw"}), broken)


def test_parameters_without_a_gradient_are_refused_by_name(packed: OwnCode) -> None:
    unused = packed._replace(check=replace(FOUND, unused=["head.weight", "head.bias"]))
    with pytest.raises(UsageError, match=r"no gradient reaches head\.weight, head\.bias"):
        refuse_unusable(settings(OWN), unused)


def test_own_needs_a_module_that_configures_an_optimizer(packed: OwnCode) -> None:
    with pytest.raises(UsageError, match="it configures no optimizer"):
        refuse_unusable(
            settings({**OWN, "workload.optimizer": "own"}), packed._replace(check=replace(FOUND, optimizer=None))
        )


def test_own_data_are_described_by_the_check_or_not_at_all(packed: OwnCode) -> None:
    assert described(packed, settings(OWN)) == FOUND.data
    with pytest.raises(UsageError, match="cannot be described: it was not checked") as caught:
        described(packed._replace(check=Unknown(unknown="it was not checked; pip install torch")), settings(OWN))
    assert caught.value.fix == "pip install torch"
    assert described(packed, settings({**OWN, "workload.data": "digits"})).classes == 10


@pytest.mark.parametrize("name", ["model", "data"])
def test_arguments_without_code_of_ones_own_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no code of yours, and takes no arguments"):
        own_code(settings({f"workload.{name}_args": {"width": 2}}))


def test_what_only_looks_like_code_is_refused() -> None:
    with pytest.raises(UsageError, match="is not module:Class"):
        own_code(settings({"workload.model": "my-net:Net"}))


def test_patterns_come_as_a_list_or_with_commas() -> None:
    given = Given({"code.include": "a.csv, b/", "code.exclude": ["*.npz"]}, {}, None)
    code = settings(given.values).code
    assert (code.include, code.exclude) == (("a.csv", "b/"), ("*.npz",))
