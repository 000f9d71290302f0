"""Which region and which AWS profile, and who said so: gpuplan's own resolution, in the order the AWS CLI documents.

boto3's order differs (it ignores AWS_REGION and lets AWS_DEFAULT_PROFILE beat AWS_PROFILE), so both are settled here
and passed on explicitly. Pure but for `configuration_text`; it must not import boto3.
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_PROFILE_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_KEY_VARIABLE = "AWS_ACCESS_KEY_ID"
_CONFIG_FILE = ("AWS_CONFIG_FILE", "~/.aws/config")
_CREDENTIALS_FILE = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
_DEFAULT_PROFILE = "default"


@dataclass(frozen=True)
class Location:
    """Where calls go and as whom, with the origin of both."""

    region: str
    region_from: str
    """A flag, a variable, a file: what a user would look for to change it."""
    profile: str | None
    """None: no profile is named, the default credential chain decides."""
    profile_from: str
    """As `region_from`; where no profile is used although a variable names one, what came before it."""


def locate(
    region: str | None,
    region_from: str,
    profile: str | None,
    profile_from: str,
    environ: Mapping[str, str],
    config_file_text: str,
) -> Location:
    """Return region and profile: what gpuplan was told, else the environment's, else the AWS configuration's.

    Keys in the environment come before a profile that only a variable names, as in the AWS CLI; the region of that
    profile still counts.

    Raises:
        UsageError: nothing names a region.
    """
    named, named_from = (profile, profile_from) if profile else _first(environ, _PROFILE_VARIABLES)
    found = (region, region_from) if region else _ambient(environ, named, config_file_text)
    if found is None:
        raise UsageError(
            "no AWS region is known",
            why="neither --region, AWS_REGION, AWS_DEFAULT_REGION nor the AWS configuration names one",
            fix="add --region us-east-1",
        )
    if not profile and environ.get(_KEY_VARIABLE):
        before = f", which comes before {named_from}" if named else ""
        return Location(*found, profile=None, profile_from=f"{_KEY_VARIABLE}{before}")
    return Location(*found, profile=named or None, profile_from=named_from or "default credential chain")


def ambient_region(environ: Mapping[str, str], profile: str | None) -> tuple[str, str] | None:
    """Return the region that the environment or the AWS configuration names, with its origin; None if neither does.

    `profile` is the AWS profile gpuplan was told, if any. Reads the AWS configuration files; never fails for them.
    """
    named = profile or _first(environ, _PROFILE_VARIABLES)[0]
    return _ambient(environ, named, configuration_text(environ))


def configuration_text(environ: Mapping[str, str]) -> str:
    """Return the AWS configuration file's text; of the credentials file its profiles and regions only, never a key."""
    return f"{_read(environ, *_CONFIG_FILE)}\n{_regions_of(_read(environ, *_CREDENTIALS_FILE))}"


def _ambient(environ: Mapping[str, str], profile: str, config_file_text: str) -> tuple[str, str] | None:
    variable = _first(environ, _REGION_VARIABLES)
    if variable[0]:
        return variable
    section = profile or _DEFAULT_PROFILE
    region = _profiles(config_file_text).get(section, "")
    return (region, f"AWS profile {section}") if region else None


def _first(environ: Mapping[str, str], variables: tuple[str, ...]) -> tuple[str, str]:
    """Return the value of the first variable that is set and not empty, with its name; two empty texts if none is."""
    return next(((environ[name], name) for name in variables if environ.get(name)), ("", ""))


def _profiles(text: str) -> dict[str, str]:
    """Return the region of each profile of a configuration file that names one; later sections win."""
    regions: dict[str, str] = {}
    for section, region in _section_regions(text).items():
        kind, _, name = section.partition(" ")
        if section == _DEFAULT_PROFILE or (kind == "profile" and name.strip()):
            regions[name.strip().strip("\"'") or _DEFAULT_PROFILE] = region
    return regions


def _regions_of(credentials: str) -> str:
    """Return a credentials file as sections of a configuration file that hold nothing but the region."""
    return "\n".join(f"[profile {name}]\nregion = {region}" for name, region in _section_regions(credentials).items())


def _section_regions(text: str) -> dict[str, str]:
    # What cannot be parsed is no ground to stop: botocore, which reads the file next, says what is wrong with it.
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, default_section="")
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    found = {section: (parser.get(section, "region", fallback="") or "").strip() for section in parser.sections()}
    return {section: region for section, region in found.items() if region}


def _read(environ: Mapping[str, str], variable: str, default: str) -> str:
    try:
        return Path(environ.get(variable) or default).expanduser().read_text(encoding="utf-8")
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: there is no home folder
        return ""
