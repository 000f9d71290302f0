"""Where a plan's region comes from: what gpuplan was told, then AWS's own words, then the instance's default."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuplan.cli.options import Given
from gpuplan.cli.planning import Planned, plan_from

CONFIGURATION = "[default]\nregion = eu-west-1\n[profile research]\nregion = us-west-2\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(values: dict[str, object] | None = None, instance: str = "g5") -> Planned:
    given = {"launch.instance": instance} | (values or {})
    return plan_from(Given(given, dict.fromkeys(given, "--flag"), None))


def region(made: Planned) -> tuple[str, str]:
    """Return the region and where it came from."""
    settings = made.plan.provenance.settings
    assert made.plan.region == settings.aws.region == made.layers.values["aws.region"]
    return settings.aws.region, made.layers.origins["aws.region"]


def test_nobody_says_anything() -> None:
    assert region(planned()) == ("us-east-1", "profile g5.12xlarge")


def test_each_voice_is_heard_over_the_one_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(CONFIGURATION, encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert region(planned()) == ("eu-west-1", "AWS profile default")
    assert region(planned({"aws.profile": "research"})) == ("us-west-2", "AWS profile research")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "ca-central-1")
    assert region(planned()) == ("ca-central-1", "AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "ap-northeast-1")
    assert region(planned()) == ("ap-northeast-1", "AWS_REGION")
    Path("gpuplan.toml").write_text('[aws]\nregion = "eu-central-1"\n', encoding="utf-8")
    assert region(planned()) == ("eu-central-1", "gpuplan.toml")
    assert region(planned({"aws.region": "us-west-2"})) == ("us-west-2", "--flag")


def test_a_profile_that_the_file_names_says_its_region_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(CONFIGURATION, encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    Path("gpuplan.toml").write_text('[aws]\nprofile = "research"\n', encoding="utf-8")
    assert region(planned()) == ("us-west-2", "AWS profile research")


def test_this_machine_is_in_no_region_whatever_aws_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert region(planned(instance="local")) == ("none", "profile local")


def test_prices_are_those_of_the_region_that_aws_names(monkeypatch: pytest.MonkeyPatch) -> None:
    default = planned().plan
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    there = planned().plan
    assert there.steps[0].rate_usd_per_hour != default.steps[0].rate_usd_per_hour
    assert there.plan_id != default.plan_id


def test_no_key_of_the_environment_gets_into_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned().plan
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_PROFILE", "research")
    assert planned().plan == before
