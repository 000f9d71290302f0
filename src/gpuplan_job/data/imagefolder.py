"""`imagefolder:PATH`: one folder of images a class, in PATH/train and PATH/val, or in PATH itself (split about 90/10).

Called through `gpuplan_job.data`. The same listing serves the plan and the job, so both count the same images;
`describe` must not import torch.
"""

from __future__ import annotations

import functools
import hashlib
import os
from contextlib import contextmanager
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
_VAL_SHARE = 0.1
_LEAST_CLASSES = 2
_MOST_SIZED = 1000
"""Files whose size is looked up; JPEG sizes scatter by about their mean, so that of 1000 is known to some 3 %."""

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
    """State what a plan needs, from the names of the files and the sizes of up to 1000 spread evenly over them.

    The next `load` of the same argument in this process takes the listing made here.

    Raises:
        DataError: the folder is missing, empty, unreadable, or its classes do not fit together.
    """
    _described.cache_clear()
    folder = _described(argument)
    sized = folder.train[:: -(-len(folder.train) // _MOST_SIZED)]
    with _refusing_unreadable(argument):
        stored = sum(Path(path).stat().st_size for path, _ in sized)
    return DataDescription(
        train_samples=len(folder.train),
        val_samples=len(folder.val),
        channels=_CHANNELS,
        height=DEFAULT_SIDE,
        width=DEFAULT_SIDE,
        classes=len(folder.classes),
        bytes_per_sample=stored / len(sized),
        storage="jpeg",
        source=f"files under {argument}",
    )


def load(argument: str, image_size: int | None) -> tuple[Samples, Samples]:
    """Return the two data sets: augmented training images and centred validation images [3, side, side].

    Raises:
        DataError: as `describe`; reading a sample that is no image raises it too and names the file.
    """
    from gpuplan_job.data._image_files import ImageFiles, training_transform, validation_transform

    folder = _described(argument)
    _described.cache_clear()  # one use: a later load sees what the folder holds then
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
    with _refusing_unreadable(argument):
        return _scan(_path(argument))


@functools.lru_cache(maxsize=1)
def _described(argument: str) -> Folder:
    """Scan once for a description and the load that follows it: a listing of a large set takes minutes on a network."""
    return scan(argument)


@contextmanager
def _refusing_unreadable(argument: str) -> Iterator[None]:
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
        names = sorted(entry.name for entry in entries if entry.is_dir() and not _left_behind(entry.name))
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
            if _left_behind(entry.name):
                continue
            if entry.is_dir():
                yield from _images(Path(entry.path))
            elif entry.name.lower().endswith(EXTENSIONS):
                yield entry.path


def _left_behind(name: str) -> bool:
    """Return whether a file or folder is no part of the data but a trace of a tool: hidden, or macOS's in archives."""
    return name.startswith(".") or name == "__MACOSX"


def _split(root: Path, found: dict[str, list[str]]) -> Folder:
    """Hold about a tenth of each class out, each image by a digest of its own path below `root`.

    So new images move no old one. Only where all images of a class fall on one side, the nearest to the threshold
    changes over, until the class has others there.
    """
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for name, images in found.items():
        if len(images) == 1:
            raise DataError(f"class {name!r} has a single image: it cannot be both trained on and validated with")
        above = len(str(root / name)) - len(name)
        place = {path: _place(path[above:]) for path in images}
        count = sum(value < _VAL_SHARE for value in place.values())
        aside = set(sorted(images, key=place.__getitem__)[: min(max(count, 1), len(images) - 1)])
        train[name] = [path for path in images if path not in aside]
        val[name] = [path for path in images if path in aside]
    return Folder(sorted(found), _number(train), _number(val))


def _place(path: str) -> float:
    """Return where a path falls in 0 .. 1, evenly and for good."""
    # Bytes as the file system has them: a name need not be UTF-8.
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8]) / 2**64


def _number(found: dict[str, list[str]]) -> Listing:
    return [(path, label) for label, name in enumerate(sorted(found)) for path in found[name]]


def _path(argument: str) -> Path:
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:  # ~somebody who has no home
        raise DataError(f"cannot read {argument}: {error}") from error
