"""`imagefolder:PATH`: one folder of images a class, in PATH/train and PATH/val, or in PATH itself (split 90/10).

Called through `gpuplan_job.data`. The same listing serves the plan and the job, so both count the same images;
`describe` must not import torch.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job.contract import DataDescription
from gpuplan_job.data import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.data import Samples

DEFAULT_SIDE = 224
"""Pixels, where no image size is asked for: the customary ImageNet crop."""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes for images."""
_CHANNELS = 3
_VAL_SHARE = 10
_LEAST_CLASSES = 2

Listing = list[tuple[str, int]]
"""Path and class of each image, in a fixed order."""


@dataclass(frozen=True)
class Folder:
    """The images of a data set: classes by name, training and validation listings."""

    classes: list[str]
    train: Listing
    val: Listing


def pin(argument: str) -> str:
    """Return the absolute path.

    Raises:
        DataError: the path names nobody's home.
    """
    return argument if argument.startswith("s3://") or not argument else str(_path(argument).absolute())


def describe(argument: str) -> DataDescription:
    """State what a plan needs, from the names and sizes of the files.

    Raises:
        DataError: the folder is missing, empty, unreadable, or its classes do not fit together.
    """
    folder = scan(argument)
    stored = sum(Path(path).stat().st_size for path, _ in folder.train)
    return DataDescription(
        train_samples=len(folder.train),
        val_samples=len(folder.val),
        channels=_CHANNELS,
        height=DEFAULT_SIDE,
        width=DEFAULT_SIDE,
        classes=len(folder.classes),
        bytes_per_sample=stored / len(folder.train),
        storage="jpeg",
        source=f"files under {argument}",
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets: augmented training images and centred validation images [3, side, side].

    Raises:
        DataError: as `describe`; reading a sample that is no image raises it too and names the file.
    """
    from gpuplan_job.data._image_files import ImageFiles, training_transform, validation_transform

    folder = scan(argument)
    side = image_size or DEFAULT_SIDE
    return ImageFiles(folder.train, training_transform(side)), ImageFiles(folder.val, validation_transform(side))


def scan(argument: str) -> Folder:
    """List the images of a data set.

    Raises:
        DataError: as `describe`.
    """
    if "://" in argument:
        raise DataError(f"imagefolder:{argument} is not supported by this backend yet: use a local path")
    if not argument:
        raise DataError("imagefolder needs a path: imagefolder:PATH")
    root = _path(argument)
    try:
        return _scan(root)
    except ValueError as error:  # a NUL in the path
        raise DataError(f"cannot read {argument!r}: {error}") from error
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or root}: {error.strerror}; check the path and its rights"
        ) from error


def _scan(root: Path) -> Folder:
    train, val = root / "train", root / "val"
    if not train.is_dir() and not val.is_dir():
        return _split(_images_by_class(root))
    missing = next((part for part in (train, val) if not part.is_dir()), None)
    if missing is not None:
        raise DataError(f"{missing} is missing: give both train/ and val/, or class folders directly under {root}")
    in_train, in_val = _images_by_class(train), _images_by_class(val)
    if in_train.keys() != in_val.keys():
        odd = sorted(in_train.keys() ^ in_val.keys())
        raise DataError(f"train/ and val/ of {root} must hold the same classes; only in one: {', '.join(odd[:5])}")
    return Folder(sorted(in_train), _number(in_train), _number(in_val))


def _images_by_class(root: Path) -> dict[str, list[str]]:
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    found = {name: sorted(_images(root / name)) for name in names}
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise DataError(f"{root / empty[0]} holds no image ({', '.join(EXTENSIONS)}): fill or remove the folder")
    if len(found) < _LEAST_CLASSES:
        raise DataError(f"{root} holds {len(found)} class folders: at least {_LEAST_CLASSES} are needed, one a class")
    return found


def _images(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images(Path(entry.path))
            elif entry.name.lower().endswith(EXTENSIONS):
                yield entry.path


def _split(found: dict[str, list[str]]) -> Folder:
    """Put a tenth of each class aside; by a digest of its path, so that new images move no old one."""
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for name, images in found.items():
        ranked = sorted(images, key=lambda path: hashlib.sha256(f"{name}/{Path(path).name}".encode()).digest())
        aside = set(ranked[: max(1, len(ranked) // _VAL_SHARE)])
        if len(aside) == len(ranked):
            raise DataError(f"class {name!r} has a single image: it cannot be both trained on and validated with")
        train[name] = [path for path in images if path not in aside]
        val[name] = [path for path in images if path in aside]
    return Folder(sorted(found), _number(train), _number(val))


def _number(found: dict[str, list[str]]) -> Listing:
    return [(path, label) for label, name in enumerate(sorted(found)) for path in found[name]]


def _path(argument: str) -> Path:
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:  # ~somebody who has no home
        raise DataError(f"cannot read {argument}: {error}") from error
