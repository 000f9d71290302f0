"""What holds for every profile file in the folder, and figures of a few that were read from their sources by hand."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from gpuplan.profiles import load
from gpuplan.profiles.schema import DetectedProfile, InstanceProfile

NAMES = load.names()
FAMILIES = ("g4dn", "g5", "g6", "g6e", "p3", "p3dn", "p4d", "p4de", "p5")
# Before AWS cut them in June 2025; a source that still has one is stale.
PRICES_BEFORE_THE_CUT = {"p4d.24xlarge": "32", "p4de.24xlarge": "40", "p5.48xlarge": "98"}


def concrete(name: str) -> InstanceProfile:
    profile = load.load(name)
    assert isinstance(profile, InstanceProfile)
    return profile


def all_concrete() -> list[InstanceProfile]:
    return [profile for profile in load.load_all() if isinstance(profile, InstanceProfile)]


def usd(name: str, service: str, instance_type: str, region: str = "us-east-1") -> Decimal:
    rows = [
        p for p in concrete(name).prices if (p.service, p.instance_type, p.region) == (service, instance_type, region)
    ]
    return rows[0].usd_per_hour


def test_shipped_profiles_have_no_findings() -> None:
    assert load.check() == []


@pytest.mark.parametrize("name", NAMES)
def test_profile_loads_by_its_name_and_aliases(name: str) -> None:
    profile = load.load(name)
    assert profile.name == name
    assert all(load.load(alias) == profile for alias in profile.aliases)
    assert len(profile.digest()) == 64
    assert json.loads(profile.model_dump_json())["name"] == name


@pytest.mark.parametrize("family", FAMILIES)
def test_family_name_leads_to_a_profile_of_that_family(family: str) -> None:
    assert load.load(family).name.startswith(f"{family}.")


def test_local_is_detected() -> None:
    assert isinstance(load.load("local"), DetectedProfile)


@pytest.mark.parametrize("profile", all_concrete(), ids=lambda profile: profile.name)
def test_aws_profile_can_be_planned_with(profile: InstanceProfile) -> None:
    region = profile.defaults.region
    assert profile.train.instance_type == profile.name
    assert region == "us-east-1"
    assert profile.quota is not None
    assert profile.gpu.peak_tflops
    assert profile.gpu.bandwidth_gbs
    assert profile.defaults.precision == ("bf16-mixed" if profile.gpu.bf16 else "16-mixed")
    for shape in (profile.train, *profile.finders):
        ec2 = profile.price("ec2", shape.instance_type, region)
        sagemaker = profile.price("sagemaker", shape.instance_type, region)
        assert ec2 is not None
        assert sagemaker is not None
        assert 1 < sagemaker.usd_per_hour / ec2.usd_per_hour < Decimal("1.45")


@pytest.mark.parametrize("profile", all_concrete(), ids=lambda profile: profile.name)
def test_lr_find_costs_less_an_hour_than_training(profile: InstanceProfile) -> None:
    for finder in profile.finders:
        assert usd(profile.name, "ec2", finder.instance_type) < usd(profile.name, "ec2", profile.name)


@pytest.mark.parametrize("profile", all_concrete(), ids=lambda profile: profile.name)
def test_some_finder_has_the_memory_of_training_and_none_needs_another_precision(profile: InstanceProfile) -> None:
    # 1 % of slack: an H100 shows 361 MiB less than the A100-80GB for which it stands in.
    assert max(profile.gpu_of(f).memory_mib for f in profile.finders) >= 0.99 * profile.gpu.memory_mib
    assert all(profile.gpu_of(f).bf16 for f in profile.finders) or not profile.gpu.bf16


def test_no_price_is_from_before_the_cut() -> None:
    for name, before in PRICES_BEFORE_THE_CUT.items():
        rows = [row for row in concrete(name).prices if row.service == "ec2" and row.instance_type == name]
        assert rows
        assert all(row.usd_per_hour < Decimal(before) for row in rows)


@pytest.mark.parametrize(
    ("name", "model", "memory_mib", "gpus", "peak_tflops"),
    [
        ("g4dn", "T4", 15_360, 4, 65.0),
        ("g5", "A10G", 22_888, 4, 70.0),
        ("g5.48xlarge", "A10G", 22_888, 8, 70.0),
        ("g6", "L4", 22_888, 4, 121.0),
        ("g6e", "L40S", 45_776, 4, 362.0),
        ("p3", "V100-16GB", 16_160, 8, 125.0),
        ("p3dn", "V100-32GB", 32_510, 8, 125.0),
        ("p4d", "A100-40GB", 40_960, 8, 312.0),
        ("p4de", "A100-80GB", 81_920, 8, 312.0),
        ("p5", "H100", 81_559, 8, 989.0),
    ],
)
def test_gpu_has_its_published_figures(name: str, model: str, memory_mib: int, gpus: int, peak_tflops: float) -> None:
    profile = concrete(name)
    assert (profile.gpu.model, profile.gpu.memory_mib) == (model, memory_mib)
    assert (profile.train.gpus, profile.gpu.peak_tflops) == (gpus, peak_tflops)


@pytest.mark.parametrize(
    ("name", "service", "instance_type", "region", "amount"),
    [
        ("g5", "ec2", "g5.xlarge", "us-east-1", "1.006"),
        ("g5", "ec2", "g5.12xlarge", "us-east-1", "5.672"),
        ("g5", "sagemaker", "g5.xlarge", "us-east-1", "1.408"),
        ("g5", "sagemaker", "g5.12xlarge", "us-east-1", "7.09"),
        ("g5", "ec2", "g5.12xlarge", "eu-west-1", "6.33167"),
        ("g5.48xlarge", "ec2", "g5.48xlarge", "us-east-1", "16.288"),
        ("p3", "ec2", "p3.16xlarge", "us-east-1", "24.48"),
        ("p4d", "ec2", "p4d.24xlarge", "us-east-1", "21.957642"),
        ("p4d", "sagemaker", "p4d.24xlarge", "us-west-2", "25.251286"),
        ("p5", "ec2", "p5.48xlarge", "us-east-1", "55.04"),
    ],
)
def test_price_is_the_published_one(name: str, service: str, instance_type: str, region: str, amount: str) -> None:
    assert usd(name, service, instance_type, region) == Decimal(amount)


def test_missing_sagemaker_price_is_derived_and_says_from_what() -> None:
    price = concrete("p4d").price("sagemaker", "ml.p4d.24xlarge", "us-east-1")
    assert price is not None
    assert price.derived
    assert price.usd_per_hour == Decimal("21.957642") * Decimal("1.15")
    assert "ratio" in price.source


def test_p3_is_retired_and_names_what_to_use_instead() -> None:
    p3 = concrete("p3")
    assert p3.lifecycle.state == "retired"
    assert p3.lifecycle.substitutes == ("p4d.24xlarge", "g5.48xlarge")
    assert p3.finder.instance_type == "p3.2xlarge"


@pytest.mark.parametrize(
    ("name", "finder", "differs"),
    [
        ("g4dn", "g4dn.xlarge", False),
        ("g5", "g5.xlarge", False),
        ("g5.48xlarge", "g5.xlarge", False),
        ("g6", "g6.xlarge", False),
        ("g6e", "g6e.xlarge", False),
        ("p3", "p3.2xlarge", False),
        ("p3dn", "g6e.xlarge", True),
        ("p4d", "g6e.xlarge", True),
        ("p4de", "g6e.xlarge", True),
        ("p5", "p5.4xlarge", False),
    ],
)
def test_finder_is_the_single_gpu_sibling_where_aws_has_one(name: str, finder: str, differs: bool) -> None:  # noqa: FBT001 - a pytest parameter
    assert (concrete(name).finder.instance_type, concrete(name).finder_differs) == (finder, differs)


def test_finder_of_another_family_counts_against_its_own_quota() -> None:
    p4d = concrete("p4d")
    quota = p4d.quota_of(p4d.finder)
    assert quota is not None
    assert (quota.on_demand, quota.spot) == ("L-DB2E81BA", "L-3819A6DF")
    assert p4d.quota_of(p4d.train) == p4d.quota


@pytest.mark.parametrize(("name", "batch"), [("g5", 64), ("p3", 32), ("p4d", 128), ("p5", 256)])
def test_default_batch_grows_with_the_gpu(name: str, batch: int) -> None:
    assert concrete(name).defaults.per_gpu_batch == batch
