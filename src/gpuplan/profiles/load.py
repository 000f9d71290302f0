"""Instance profiles from their folder: names, one by name or alias, all, and the offline check of the whole folder.

Called by the CLI and by plans. Reads TOML files only; it must not look at this machine or call AWS.
"""

from __future__ import annotations

import json
import tomllib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gpuplan.core.errors import UsageError
from gpuplan.core.explain import complaints
from gpuplan.core.frozen import Frozen
from gpuplan.core.names import did_you_mean
from gpuplan.profiles.schema import SAGEMAKER_PREFIX, DetectedProfile, InstanceProfile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

AnyProfile = InstanceProfile | DetectedProfile

_SUFFIX = ".toml"


class Finding(Frozen):
    """One thing that is wrong with a profile file or between two of them."""

    file: str
    """Name of the file, without its folder."""
    message: str
    """What is wrong, in one sentence."""


def profiles_directory() -> Path:
    """Return the folder of shipped profiles: in the installed package, or at the root of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "instance_profiles"
    return installed if installed.is_dir() else package.parents[1] / "instance_profiles"


def names(directory: Path | None = None) -> list[str]:
    """Return the names of the profiles in a folder, sorted, without reading a file."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in (directory or profiles_directory()).glob(f"*{_SUFFIX}"))


def load(name: str, directory: Path | None = None) -> AnyProfile:
    """Return the profile of a name (`g5.12xlarge`), an alias (`g5`) or a SageMaker name (`ml.g5.12xlarge`), any case.

    Raises:
        UsageError: no such profile, or its file is not valid.
    """
    folder = directory or profiles_directory()
    wanted = name.strip().lower().removeprefix(SAGEMAKER_PREFIX)
    known = names(folder)
    if wanted in known:
        return _read(folder / f"{wanted}{_SUFFIX}")
    # Most aliases are the start of a file's name, so these are opened first and often the only ones.
    by_likelihood = sorted(known, key=lambda candidate: not candidate.startswith(f"{wanted}."))
    aliases: list[str] = []
    unreadable = ""
    for candidate in by_likelihood:
        path = folder / f"{candidate}{_SUFFIX}"
        document = _document(path)
        if isinstance(document, str):
            unreadable += f"; {path.name} is {document}"
            continue
        listed = document.get("aliases")
        if isinstance(listed, list) and wanted in listed:
            return _read(path)
        aliases += map(str, listed) if isinstance(listed, list) else ()
    raise UsageError(
        f"no instance profile is called {name!r}: {did_you_mean(wanted, [*aliases, *known])}",
        why=f"a profile is a file in {folder}{unreadable}",
        fix="gpuplan profiles list",
    )


def load_all(directory: Path | None = None) -> list[AnyProfile]:
    """Return every profile of a folder, sorted by name.

    Raises:
        UsageError: a file is not valid.
    """
    folder = directory or profiles_directory()
    return [_read(folder / f"{name}{_SUFFIX}") for name in names(folder)]


def check(directory: Path | None = None) -> list[Finding]:
    """Return what is wrong in a folder: each file by itself, then what two files say differently. Offline."""
    folder = directory or profiles_directory()
    findings: list[Finding] = []
    sound: list[AnyProfile] = []
    for name in names(folder):
        read = _parse(folder / f"{name}{_SUFFIX}")
        if isinstance(read, list):
            findings += [Finding(file=f"{name}{_SUFFIX}", message=fault) for fault in read]
        else:
            sound.append(read)
    concrete = [profile for profile in sound if isinstance(profile, InstanceProfile)]
    across = chain(
        _clashing_names(sound), _lost_substitutes(sound, names(folder)), _undated(sound), _contradictions(concrete)
    )
    # Train shape and finder share a GPU, so one edit shows twice: each finding is kept once.
    return findings + [Finding(file=f"{name}{_SUFFIX}", message=message) for name, message in dict.fromkeys(across)]


def _clashing_names(profiles: Iterable[AnyProfile]) -> Iterator[tuple[str, str]]:
    owner = {profile.name: profile.name for profile in profiles}
    for profile in profiles:
        for alias in profile.aliases:
            if owner.setdefault(alias, profile.name) != profile.name or alias == profile.name:
                yield profile.name, f"aliases: {alias!r} already leads to {owner[alias]}"


def _lost_substitutes(profiles: Iterable[AnyProfile], known: list[str]) -> Iterator[tuple[str, str]]:
    for profile in profiles:
        for substitute in profile.lifecycle.substitutes:
            if substitute not in known or substitute == profile.name:
                yield (
                    profile.name,
                    f"lifecycle.substitutes: {substitute!r} is no other profile; {did_you_mean(substitute, known)}",
                )


def _undated(profiles: Iterable[AnyProfile]) -> Iterator[tuple[str, str]]:
    for profile in profiles:
        if isinstance(profile, InstanceProfile) and profile.lifecycle.as_of is None:
            yield profile.name, "lifecycle.as_of: missing"
        for source in profile.sources:
            if source.as_of is None:
                yield profile.name, f"sources: {source.what!r} has no `as_of`"


def _contradictions(profiles: Iterable[InstanceProfile]) -> Iterator[tuple[str, str]]:
    """Yield each GPU, shape or price that a later file states differently from an earlier one."""
    seen: dict[tuple[str, ...], tuple[str, Frozen]] = {}
    for profile in profiles:
        shapes = (profile.train, *profile.finders)
        facts: list[tuple[tuple[str, ...], Frozen]] = [
            *((("GPU", profile.gpu_of(shape).model), profile.gpu_of(shape)) for shape in shapes),
            *(
                (("shape", s.instance_type), s.model_copy(update={"gpu": None, "quota": profile.quota_of(s)}))
                for s in shapes
            ),
            *((("price", row.service, row.instance_type, row.region), row) for row in profile.prices),
            *((("spot price", row.instance_type, row.region), row) for row in profile.spot_prices),
        ]
        for key, fact in facts:
            first, before = seen.setdefault(key, (profile.name, fact))
            if before != fact:
                yield profile.name, f"states the {' '.join(key)} otherwise than {first}{_SUFFIX}"


def _read(path: Path) -> AnyProfile:
    read = _parse(path)
    if isinstance(read, list):
        first, *rest = read
        raise UsageError(
            f"{path.name} is not a valid instance profile: {first}",
            why="; ".join(rest),
            fix=f"edit {path}, then: gpuplan profiles check",
        )
    return read


def _parse(path: Path) -> AnyProfile | list[str]:
    """Return the profile in a file, or what is wrong with it, at least one sentence.

    Validation runs in pydantic's strict JSON mode: it reads lists and dates into the schema's tuples and dates.
    """
    document = _document(path)
    if isinstance(document, str):
        return [document]
    model: type[AnyProfile] = DetectedProfile if "hardware" in document else InstanceProfile
    try:
        profile = model.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        return complaints(error, model)
    if path.name != f"{profile.name}{_SUFFIX}":
        return [f"name: {profile.name!r} is not the file's name"]
    return profile


def _document(path: Path) -> dict[str, object] | str:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        return f"not TOML: {error}"
    except (OSError, UnicodeDecodeError) as error:
        return f"not readable: {error}"
