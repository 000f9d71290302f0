from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws import images
from gpuplan.aws.images import Image, Release
from gpuplan.core.frozen import Unknown
from gpuplan.profiles import load
from gpuplan.profiles.schema import InstanceProfile

REGIONS = sorted(images.table().registries)
TODAY = date(2026, 11, 24)


def capabilities() -> list[str]:
    """Compute capabilities of all GPUs that shipped profiles train or search on."""
    profiles = [load.load(name) for name in load.names()]
    gpus = [
        gpu for one in profiles if isinstance(one, InstanceProfile) for gpu in (one.gpu, *(f.gpu for f in one.finders))
    ]
    return sorted({gpu.compute_capability for gpu in gpus if gpu and gpu.compute_capability})


def known(region: str, capability: str) -> Image:
    found = images.image(region, capability)
    assert isinstance(found, Image), found
    return found


def release_of(image: Image) -> Release:
    return next(one for one in images.table().images if image.uri.endswith(f"/{one.repository}:{one.tag}"))


def test_the_profiles_name_the_gpus_that_matter() -> None:
    assert {"7.0", "7.5", "8.0", "8.6", "8.9", "9.0"} <= set(capabilities())


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
def test_from_turing_on_the_newest_image_is_taken(capability: str) -> None:
    found = known("us-east-1", capability)
    assert found.uri == "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch:2.14-cu133-amzn2023-sagemaker"
    assert (found.torch, found.cuda, found.python) == ("2.14", "13.3", "3.12")
    assert found.note(TODAY) is None


def test_a_v100_gets_the_last_image_of_cuda_12_6_and_is_told_that_it_is_no_longer_patched() -> None:
    found = known("us-east-1", "7.0")
    uri = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.6.0-gpu-py312-cu126-ubuntu22.04-sagemaker"
    assert found.uri == uri
    assert (found.torch, found.cuda, found.end_of_patch) == ("2.6.0", "12.6", date(2026, 1, 29))
    note = found.note(TODAY)
    assert note is not None
    assert "no security patches since 2026-01-29" in note


def test_an_image_is_patched_up_to_its_last_day() -> None:
    found = known("us-east-1", "8.6")
    assert found.end_of_patch is not None
    assert found.note(found.end_of_patch) is None
    assert found.note(date(2027, 9, 29)) is not None


@pytest.mark.parametrize(
    ("region", "registry"),
    [
        ("eu-west-1", "763104351884.dkr.ecr.eu-west-1.amazonaws.com"),
        ("af-south-1", "626614931356.dkr.ecr.af-south-1.amazonaws.com"),
        ("cn-north-1", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "442386744353.dkr.ecr.us-gov-west-1.amazonaws.com"),
    ],
)
def test_each_region_has_its_own_registry(region: str, registry: str) -> None:
    assert known(region, "8.6").uri.startswith(f"{registry}/pytorch")


def test_a_region_that_the_newest_image_has_not_reached_gets_the_one_before() -> None:
    assert known("cn-north-1", "8.6").torch == "2.13"


@pytest.mark.parametrize(
    ("region", "capability", "reason"),
    [
        ("xx-nowhere-1", "8.6", "region xx-nowhere-1"),
        ("us-east-1", None, "unknown compute capability"),
        ("us-east-1", "3.7", "compute capability 3.7"),
        ("us-east-1", "99.0", "compute capability 99.0"),
        ("me-west-1", "7.0", "no PyTorch image in me-west-1"),
    ],
)
def test_what_the_table_does_not_know_is_unknown_and_says_what_to_give(
    region: str, capability: str | None, reason: str
) -> None:
    found = images.image(region, capability)
    assert isinstance(found, Unknown)
    assert reason in found.unknown
    assert "--image URI" in found.unknown


@pytest.mark.parametrize("capability", [None, "7.0", "99.0"])
def test_an_image_that_the_user_names_is_taken_as_it_is(capability: str | None) -> None:
    found = images.image("xx-nowhere-1", capability, "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1")
    assert isinstance(found, Image)
    assert found.uri == "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1"
    assert isinstance(found.cuda, Unknown)
    assert found.note(TODAY) is None


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("capability", capabilities())
def test_for_each_profile_and_region_the_image_is_the_newest_that_carries_the_gpu(region: str, capability: str) -> None:
    found = images.image(region, capability)
    there = [one for one in images.table().images if region not in one.not_in]
    if isinstance(found, Unknown):
        assert not [one for one in there if one.runs_on(capability)]
        return
    chosen = release_of(found)
    assert chosen.runs_on(capability)
    assert not [one for one in there[: there.index(chosen)] if one.runs_on(capability)]
    assert found.uri.startswith(images.table().registries[region])
    if capability == "7.0":
        assert str(found.cuda).startswith("12.")


@given(st.integers(1, 20), st.integers(0, 9), st.sampled_from(REGIONS))
def test_no_gpu_older_than_turing_ever_gets_cuda_13(major: int, minor: int, region: str) -> None:
    found = images.image(region, f"{major}.{minor}")
    if isinstance(found, Image) and (major, minor) < (7, 5):
        assert str(found.cuda).startswith("12.")


@given(st.integers(5, 12), st.integers(0, 9), st.integers(5, 12), st.integers(0, 9))
def test_machine_code_runs_on_its_own_generation_and_later_steps_of_it_only(
    code_major: int, code_minor: int, major: int, minor: int
) -> None:
    release = images.table().images[0].model_copy(update={"architectures": (f"{code_major}.{code_minor}",)})
    assert release.runs_on(f"{major}.{minor}") == (code_major == major and code_minor <= minor)


def test_the_table_is_dated_sourced_and_newest_first() -> None:
    rows = images.table().images
    assert all(row.source.startswith("sagemaker-core ") and row.as_of >= date(2026, 11, 24) for row in rows)
    versions = [tuple(int(part) for part in row.torch.split(".")) for row in rows]
    assert versions == sorted(versions, reverse=True)
    assert len(set(versions)) == len(versions)


def test_each_tag_says_the_cuda_of_its_row() -> None:
    assert all(f"-cu{row.cuda.replace('.', '')}-" in row.tag for row in images.table().images)


def test_regions_that_lack_an_image_are_regions_of_the_table() -> None:
    assert all(set(row.not_in) < set(REGIONS) for row in images.table().images)
