"""Write the table of SageMaker's PyTorch training images that `gpuplan.aws.images` reads, from the SageMaker SDK's own.

Run by maintainers after an upgrade of the `sagemaker` extra; it works offline. The SDK knows registries and tags; what
it does not say of an image (CUDA, Python, architectures, end of patch) stands below, each with its source.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sagemaker.core import image_uris

if TYPE_CHECKING:
    from collections.abc import Iterable

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "gpuplan" / "aws" / "images.toml"
ANY_GPU_INSTANCE = "ml.g5.xlarge"
LONGEST_LINE = 100
OLDEST = (2, 6)
"""The oldest torch that the payload runs on."""
DLC = "github.com/aws/deep-learning-containers docs/src/data"
CUDA_MATRIX = "github.com/pytorch/pytorch RELEASE.md, CUDA support matrix"
CU126 = ("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0")
SINCE_TURING = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")


@dataclass(frozen=True)
class Facts:
    """What the SDK does not say of an image."""

    cuda: str
    python: str
    end_of_patch: date
    architectures: tuple[str, ...] = SINCE_TURING
    tag_ends_in: str = ""
    """What the full tag has after the SDK's, which names neither CUDA nor the system."""
    note: str = ""


FACTS = {
    "2.6.0": Facts("12.6", "3.12", date(2026, 1, 29), CU126, "-cu126-ubuntu22.04-sagemaker"),
    "2.7.1": Facts("12.8", "3.12", date(2026, 4, 23), tag_ends_in="-cu128-ubuntu22.04-sagemaker"),
    "2.8.0": Facts(
        "12.9",
        "3.12",
        date(2026, 8, 6),
        tag_ends_in="-cu129-ubuntu22.04-sagemaker",
        note="its wheels may carry 7.0; not confirmed",
    ),
    "2.9.0": Facts("13.0", "3.12", date(2026, 10, 15), tag_ends_in="-cu130-ubuntu22.04-sagemaker"),
    "2.10.0": Facts("13.0", "3.13", date(2027, 1, 21), tag_ends_in="-cu130-ubuntu22.04-sagemaker"),
    "2.11": Facts("13.0", "3.12", date(2027, 4, 30)),
    "2.12": Facts("13.0", "3.12", date(2027, 7, 2)),
    "2.13": Facts("13.3", "3.12", date(2027, 7, 20)),
    "2.14": Facts("13.3", "3.12", date(2027, 9, 28)),
}


@dataclass(frozen=True)
class Release:
    """An image as the SDK names it: repository and tag, and the registry of each region that has it."""

    torch: str
    repository: str
    tag: str
    registries: dict[str, str]


def releases() -> list[Release]:
    """Return the SDK's GPU images for training, oldest first."""
    found = [
        release(framework, torch, entry["registries"])
        for framework in ("pytorch", "pytorch-amzn2023")
        for torch, entry in image_uris.config_for_framework(framework)["training"]["versions"].items()
        if number(torch) >= OLDEST
    ]
    return sorted(found, key=lambda one: number(one.torch))


def release(framework: str, torch: str, regions: Iterable[str]) -> Release:
    """Ask the SDK for the address of one version in each of its regions."""
    addresses = {
        region: image_uris.retrieve(
            framework=framework,
            region=region,
            version=torch,
            instance_type=ANY_GPU_INSTANCE,
            image_scope="training",
        )
        for region in sorted(regions)
    }
    images = {address.partition("/")[2] for address in addresses.values()}
    if len(images) != 1:
        raise SystemExit(f"torch {torch} has another tag in each region: {sorted(images)}")
    repository, _, tag = images.pop().partition(":")
    return Release(torch, repository, tag, {region: a.partition("/")[0] for region, a in addresses.items()})


def number(torch: str) -> tuple[int, ...]:
    """Return a version as numbers to compare."""
    return tuple(int(part) for part in torch.split("."))


def text(found: list[Release], as_of: date, source: str) -> str:
    """Return the table as TOML."""
    unknown = [one.torch for one in found if one.torch not in FACTS]
    if unknown:
        raise SystemExit(f"the SDK has torch {', '.join(unknown)}: add CUDA, Python and end of patch to FACTS")
    registries: dict[str, str] = {}
    for one in found:
        for region, registry in one.registries.items():
            if registries.setdefault(region, registry) != registry:
                raise SystemExit(f"{region} has one registry for some versions and another for torch {one.torch}")
    lines = [
        "# SageMaker's PyTorch training images for GPUs: made by scripts/refresh_images.py, do not edit.",
        f"# Registries and tags: {source}, read {as_of}.",
        f"# CUDA, Python, end of patch: {DLC}.",
        f"# Architectures: {CUDA_MATRIX}; one that was not confirmed is left out.",
    ]
    for one in reversed(found):
        lines += ["", "[[images]]", *row(one, sorted(set(registries) - set(one.registries)), as_of, source)]
    lines += ["", "[registries]", *(f'{region} = "{registries[region]}"' for region in sorted(registries))]
    return "\n".join(lines) + "\n"


def row(one: Release, not_in: list[str], as_of: date, source: str) -> list[str]:
    """Return the lines of one image."""
    facts = FACTS[one.torch]
    tag = one.tag + facts.tag_ends_in
    if f"-cu{facts.cuda.replace('.', '')}-" not in tag:
        raise SystemExit(f"torch {one.torch}: the tag {tag} does not say CUDA {facts.cuda}")
    return [
        f'torch = "{one.torch}"',
        f'cuda = "{facts.cuda}"',
        f'python = "{facts.python}"',
        f'repository = "{one.repository}"',
        f'tag = "{tag}"',
        f"architectures = {listed(facts.architectures)}{f'  # {facts.note}' if facts.note else ''}",
        f"end_of_patch = {facts.end_of_patch}",
        f"not_in = {listed(not_in)}",
        f"as_of = {as_of}",
        f'source = "{source}"',
    ]


def listed(values: tuple[str, ...] | list[str]) -> str:
    """Return a TOML array of strings, one a line where they are many."""
    quoted = [f'"{value}"' for value in values]
    one_line = f"[{', '.join(quoted)}]"
    return one_line if len(one_line) <= LONGEST_LINE else "\n".join(["[", *(f"    {value}," for value in quoted), "]"])


def main() -> int:
    """Write the table, or with --check tell whether the shipped one is what the SDK says today."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", type=date.fromisoformat, help="day of the reading, YYYY-MM-DD; needed to write")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the shipped table differs")
    parser.add_argument("--output", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    source = f"sagemaker-core {version('sagemaker-core')} image_uris"
    if arguments.check:
        return check(arguments.output, source)
    if arguments.date is None:
        parser.error("--date is needed to write the table")
    arguments.output.write_text(text(releases(), arguments.date, source), encoding="utf-8")
    return 0


def check(shipped: Path, source: str) -> int:
    """Compare a table with the SDK's facts; that it was read on another day, from another version, does not matter."""

    def undated(table: str) -> list[str]:
        kept = re.sub(r"(?m)^(as_of|source) = .*$|^# Registries and tags: .*$", r"\1", table)
        return kept.splitlines(keepends=True)

    there, now = shipped.read_text(encoding="utf-8"), text(releases(), date.min, source)
    difference = list(difflib.unified_diff(undated(there), undated(now), str(shipped), source))
    sys.stdout.writelines(difference)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
