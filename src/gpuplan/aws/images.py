"""Which of SageMaker's PyTorch training images a GPU needs: the newest whose CUDA build still carries it. Pure.

Called by `backends.sagemaker` and by the checks before a launch. The table beside it (`images.toml`) is dated and made
by scripts/refresh_images.py; nothing is asked of AWS.
"""

from __future__ import annotations

import tomllib
from datetime import date
from functools import cache
from pathlib import Path

from gpuplan.core.frozen import Frozen, Unknown

TABLE = Path(__file__).with_name("images.toml")
_OTHER = "give one with --image URI"
_OWN = Unknown(unknown="an image given with --image is not in gpuplan's table")


class Image(Frozen):
    """A training image in a region's registry."""

    uri: str
    torch: str | Unknown
    """Such as `2.14`."""
    cuda: str | Unknown
    """Such as `13.3`."""
    python: str | Unknown
    """Such as `3.12`."""
    as_of: date | None
    """When the source was read; None for an image that the user named."""
    end_of_patch: date | None
    """After this day AWS mends no security fault in it; None where that is not known."""
    source: str

    def note(self, today: date) -> str | None:
        """Return what a user should know before running it, in one sentence; None if there is nothing."""
        if self.end_of_patch is None or today <= self.end_of_patch:
            return None
        name, since = self.uri.rpartition("/")[2], self.end_of_patch
        return f"image {name} has had no security patches since {since}; no newer one here is known to run on this GPU"


class Release(Frozen):
    """One image of the table, the same in each region that has it."""

    torch: str
    cuda: str
    python: str
    repository: str
    tag: str
    architectures: tuple[str, ...]
    """Compute capabilities that its CUDA build has machine code for; one not confirmed is left out."""
    end_of_patch: date
    not_in: tuple[str, ...]
    """Regions of the table whose registry does not have it."""
    as_of: date
    source: str

    def runs_on(self, compute_capability: str) -> bool:
        """Tell whether its machine code runs on a GPU: code for 8.0 runs on 8.6 and 8.9, none for 7.x or 8.x on 9.0."""
        major, minor = _version(compute_capability)
        carried = map(_version, self.architectures)
        return any(theirs[0] == major and theirs[1] <= minor for theirs in carried)


class Table(Frozen):
    """The registry of each region, and the images, newest first."""

    registries: dict[str, str]
    images: tuple[Release, ...]


def image(region: str, compute_capability: str | None, override: str | None = None) -> Image | Unknown:
    """Return the image for a GPU (`8.6`) in a region, or why none is known; `override` is taken as it is."""
    if override is not None:
        return Image(uri=override, torch=_OWN, cuda=_OWN, python=_OWN, as_of=None, end_of_patch=None, source="--image")
    if compute_capability is None:
        return Unknown(unknown=f"which image runs on a GPU of unknown compute capability; {_OTHER}")
    registry = table().registries.get(region)
    if registry is None:
        return Unknown(unknown=f"which registry holds the PyTorch images in region {region}; {_OTHER}")
    for release in table().images:
        if region not in release.not_in and release.runs_on(compute_capability):
            return Image(
                uri=f"{registry}/{release.repository}:{release.tag}",
                torch=release.torch,
                cuda=release.cuda,
                python=release.python,
                as_of=release.as_of,
                end_of_patch=release.end_of_patch,
                source=release.source,
            )
    capability = f"compute capability {compute_capability}"
    return Unknown(unknown=f"no PyTorch image in {region} is known to run on {capability}; {_OTHER}")


@cache
def table() -> Table:
    """Return the shipped table."""
    return read(TABLE.read_text(encoding="utf-8"))


def read(text: str) -> Table:
    """Return a table from its TOML text."""
    return Table.model_validate(tomllib.loads(text), strict=False)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
