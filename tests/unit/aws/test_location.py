from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws.location import Location, ambient_region, configuration_text, locate
from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[default]
region = eu-west-1
[profile work]
region = us-west-2
s3 =
    max_concurrent_requests = 10
[profile "spaced name"]
region = eu-north-1
[profile bare]
output = json
[sso-session corp]
sso_region = us-east-2
region = us-east-2
"""


def found(
    environ: dict[str, str], *, region: str | None = None, profile: str | None = None, config: str = CONFIG
) -> Location:
    return locate(region, "--region", profile, "--profile", environ, config)


@pytest.mark.parametrize(
    ("environ", "region", "profile", "value", "origin"),
    [
        ({"AWS_REGION": "a-b-1", "AWS_DEFAULT_REGION": "c-d-1"}, "e-f-1", None, "e-f-1", "--region"),
        ({"AWS_REGION": "a-b-1", "AWS_DEFAULT_REGION": "c-d-1"}, None, None, "a-b-1", "AWS_REGION"),
        ({"AWS_DEFAULT_REGION": "c-d-1"}, None, "work", "c-d-1", "AWS_DEFAULT_REGION"),
        ({"AWS_REGION": ""}, None, "work", "us-west-2", "AWS profile work"),
        ({"AWS_PROFILE": "work"}, None, None, "us-west-2", "AWS profile work"),
        ({"AWS_PROFILE": "spaced name"}, None, None, "eu-north-1", "AWS profile spaced name"),
        ({}, None, None, "eu-west-1", "AWS profile default"),
    ],
)
def test_the_region_is_the_first_that_anyone_names(
    environ: dict[str, str], region: str | None, profile: str | None, value: str, origin: str
) -> None:
    location = found(environ, region=region, profile=profile)
    assert (location.region, location.region_from) == (value, origin)


@pytest.mark.parametrize(
    ("environ", "profile", "value", "origin"),
    [
        ({"AWS_PROFILE": "work", "AWS_DEFAULT_PROFILE": "bare"}, "default", "default", "--profile"),
        ({"AWS_PROFILE": "work", "AWS_DEFAULT_PROFILE": "bare"}, None, "work", "AWS_PROFILE"),
        ({"AWS_DEFAULT_PROFILE": "bare"}, None, "bare", "AWS_DEFAULT_PROFILE"),
        ({"AWS_PROFILE": ""}, None, None, "default credential chain"),
        ({}, None, None, "default credential chain"),
    ],
)
def test_aws_profile_beats_aws_default_profile_as_in_the_aws_cli(
    environ: dict[str, str], profile: str | None, value: str | None, origin: str
) -> None:
    location = found(environ, region="us-east-1", profile=profile)
    assert (location.profile, location.profile_from) == (value, origin)


VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID")


@given(
    st.dictionaries(st.sampled_from(VARIABLES), st.sampled_from(["", "work", "bare", "us-west-2"])),
    st.text(max_size=80),
)
def test_what_gpuplan_was_told_counts_whatever_the_surroundings_say(environ: dict[str, str], config: str) -> None:
    assert found(environ, region="us-east-1", profile="work", config=config) == Location(
        "us-east-1", "--region", "work", "--profile"
    )


def test_keys_in_the_environment_beat_a_profile_that_a_variable_names_but_not_its_region() -> None:
    location = found({"AWS_ACCESS_KEY_ID": "x", "AWS_PROFILE": "work"})
    assert (location.region, location.profile) == ("us-west-2", None)
    assert location.profile_from == "AWS_ACCESS_KEY_ID, which comes before AWS_PROFILE"
    assert found({"AWS_ACCESS_KEY_ID": "x"}).profile_from == "AWS_ACCESS_KEY_ID"


def test_a_profile_that_was_asked_for_beats_keys_in_the_environment() -> None:
    assert found({"AWS_ACCESS_KEY_ID": "x"}, profile="work").profile == "work"


@pytest.mark.parametrize("environ", [{"AWS_PROFILE": "bare"}, {"AWS_PROFILE": "corp"}, {"AWS_PROFILE": "nobody"}])
def test_a_region_is_never_made_up(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no AWS region") as caught:
        found(environ)
    assert caught.value.fix == "add --region us-east-1"


def test_a_broken_configuration_names_no_region_and_is_left_to_botocore_to_complain_about() -> None:
    broken = "[profile work\nregion"
    assert found({"AWS_REGION": "us-east-1"}, config=broken).region == "us-east-1"
    with pytest.raises(UsageError, match="no AWS region"):
        found({}, config=broken)


def files(folder: Path, config: str, credentials: str) -> dict[str, str]:
    (folder / "config").write_text(config)
    (folder / "credentials").write_text(credentials)
    return {
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
    }


def test_the_ambient_region_comes_with_its_origin(tmp_path: Path) -> None:
    environ = files(tmp_path, CONFIG, "")
    assert ambient_region(environ | {"AWS_REGION": "us-east-1"}, None) == ("us-east-1", "AWS_REGION")
    assert ambient_region(environ | {"AWS_PROFILE": "work"}, None) == ("us-west-2", "AWS profile work")
    assert ambient_region(environ | {"AWS_PROFILE": "work"}, "default") == ("eu-west-1", "AWS profile default")
    assert ambient_region(environ, "bare") is None


def test_without_any_file_there_is_no_ambient_region(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none")
    assert ambient_region({"AWS_CONFIG_FILE": nowhere, "AWS_SHARED_CREDENTIALS_FILE": nowhere}, None) is None


def test_a_region_in_the_credentials_file_counts_and_its_keys_are_not_taken_along(tmp_path: Path) -> None:
    credentials = "[default]\naws_access_key_id = AKIA\naws_secret_access_key = hush\n[old]\nregion = ap-south-1\n"
    environ = files(tmp_path, "[default]\nregion = eu-west-1\n", credentials)
    assert ambient_region(environ, "old") == ("ap-south-1", "AWS profile old")
    assert ambient_region(environ, None) == ("eu-west-1", "AWS profile default")
    assert "hush" not in configuration_text(environ)
