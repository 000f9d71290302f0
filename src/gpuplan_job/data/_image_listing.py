"""Lists the images of a data set: one folder a class, in ROOT/train and ROOT/val, or in ROOT alone (split about 90/10).

Used by the kinds whose samples are image files, in a plan and in a job, so that both count the same. It opens no image
and must not import torch.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job.contract import DataDescription
from gpuplan_job.data import DataError, _held_out, _location

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_SIDE = 224
"""Pixels, where no image size is asked for: the customary ImageNet crop."""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What torchvision's ImageFolder takes for images."""
_LEAST_CLASSES = 2

Listing = list[tuple[str, int]]
"""Path and class of each image, in a fixed order."""


@dataclass(frozen=True)
class Folder:
    """The images of a data set: classes by name, training and validation listings."""

    classes: list[str]
    train: Listing
    val: Listing


def description(
    *, train: int, val: int, classes: int, bytes_per_sample: float, source: str, files: int | None = None
) -> DataDescription:
    """Return what a plan needs of a data set of images, each a file of its own unless there are so many `files`."""
    return DataDescription(
        train_samples=train,
        val_samples=val,
        channels=3,
        height=DEFAULT_SIDE,
        width=DEFAULT_SIDE,
        classes=classes,
        bytes_per_sample=bytes_per_sample,
        storage="jpeg",
        source=source,
        files=files,
    )


def stated(argument: str, *, shards: bool = False) -> DataDescription:
    """Return what the argument itself states of data on S3: `s3://BUCKET/PREFIX?train=N&val=N&classes=N&bytes=N`.

    Raises:
        DataError: it names no bucket and prefix, or a figure is missing or wrong.
    """
    location = _location.parse(argument)
    figures = _location.figures(location, shards=shards)
    return description(
        train=figures["train"],
        val=figures["val"],
        classes=figures["classes"],
        bytes_per_sample=float(figures["bytes"]),
        source=f"stated for {location.uri}, not counted",
        files=figures.get("shards"),
    )


def pinned(argument: str) -> str:
    """Return the absolute path of an argument; a location on S3 is the same from anywhere.

    Raises:
        DataError: the path names nobody's home.
    """
    if not argument or _location.is_one(argument):
        return argument
    return str(path_of(argument).absolute())


def scan(argument: str) -> Folder:
    """List the images below a path.

    Raises:
        DataError: there is no path, or the folder is missing, empty, unreadable, or its classes do not fit together.
    """
    if "://" in argument:
        raise DataError(f"imagefolder:{argument}: give a path of this machine or s3://BUCKET/PREFIX")
    if not argument:
        raise DataError("imagefolder needs a path: imagefolder:PATH")
    with refusing_unreadable(argument):
        return _scan(path_of(argument))


def scan_channel(spec: str, told: DataDescription) -> Folder:
    """List the images that were brought from S3 to this machine, once they are as many as the plan was told.

    Raises:
        DataError: as `scan`; nothing was brought here, or other counts were stated.
    """
    root = _location.channel(spec)
    with refusing_unreadable(str(root)):
        folder = _scan(root)
    as_stated(spec, told, train=len(folder.train), val=len(folder.val), classes=len(folder.classes))
    return folder


def as_stated(spec: str, told: DataDescription, *, train: int, val: int, classes: int) -> None:
    """Return if what was found is as many as the plan was told.

    Raises:
        DataError: it is not.
    """
    found = {"train": train, "val": val, "classes": classes}
    planned = {"train": told.train_samples, "val": told.val_samples, "classes": told.classes}
    wrong = [f"{name}={found[name]} instead of {planned[name]}" for name in found if found[name] != planned[name]]
    if wrong:
        raise DataError(f"{spec} holds other images than the plan was made for: {', '.join(wrong)}; plan with these")


@contextmanager
def refusing_unreadable(argument: str) -> Iterator[None]:
    """Turn what an operating system says of a path into a `DataError` in a user's words."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:  # a NUL in the path
        raise DataError(f"cannot read {argument!r}: {error}") from error
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or argument}: {error.strerror}; check the path and its rights"
        ) from error


def _scan(root: Path) -> Folder:
    train, val = root / "train", root / "val"
    if not train.is_dir() and not val.is_dir():
        return _split(root, _images_by_class(root))
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
        names = sorted(entry.name for entry in entries if entry.is_dir() and not left_behind(entry.name))
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
            if left_behind(entry.name):
                continue
            if entry.is_dir():
                yield from _images(Path(entry.path))
            elif entry.name.lower().endswith(EXTENSIONS):
                yield entry.path


def left_behind(name: str) -> bool:
    """Return whether a file or folder is no part of the data but a trace of a tool: hidden, or macOS's in archives."""
    return name.startswith(".") or name == "__MACOSX"


def _split(root: Path, found: dict[str, list[str]]) -> Folder:
    """Hold about a tenth of each class out, each image by its own path below `root`, so that new images move no old."""
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for name, images in found.items():
        if len(images) == 1:
            raise DataError(f"class {name!r} has a single image: it cannot be both trained on and validated with")
        above = len(str(root / name)) - len(name)
        aside = _held_out.positions([_held_out.place(path[above:]) for path in images])
        train[name] = [path for number, path in enumerate(images) if number not in aside]
        val[name] = [path for number, path in enumerate(images) if number in aside]
    return Folder(sorted(found), _number(train), _number(val))


def _number(found: dict[str, list[str]]) -> Listing:
    return [(path, label) for label, name in enumerate(sorted(found)) for path in found[name]]


def path_of(argument: str) -> Path:
    """Return a path with `~` resolved.

    Raises:
        DataError: the path names nobody's home.
    """
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:  # ~somebody who has no home
        raise DataError(f"cannot read {argument}: {error}") from error
