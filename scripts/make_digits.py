"""Writes src/gpuplan_job/data/digits.npz from scikit-learn's copy of the UCI digits; run by hand, needs scikit-learn.

Two runs give the same bytes: nothing is compressed, and the archive's clock stands at zipfile's default. With `--check`
the file in the repository is compared and not written.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parents[1] / "src/gpuplan_job/data/digits.npz"
SEED = 0
VAL_SAMPLES = 360
CLASSES = 10

Bytes = NDArray[np.uint8]


def split(labels: Bytes) -> tuple[list[int], list[int]]:
    """Return sorted training and validation indices, the classes' shares as equal as 360 in 10 classes allow."""
    generator = random.Random(SEED)  # noqa: S311 - a reproducible split, not a secret
    val: list[int] = []
    for label in range(CLASSES):
        members = [int(index) for index in np.flatnonzero(labels == label)]
        generator.shuffle(members)
        val.extend(members[: VAL_SAMPLES // CLASSES])
    aside = set(val)
    return [index for index in range(len(labels)) if index not in aside], sorted(val)


def archive(images: Bytes, labels: Bytes) -> bytes:
    """Return the npz file as bytes."""
    train, val = split(labels)
    arrays: dict[str, NDArray[np.unsignedinteger]] = {
        "images": images,
        "labels": labels,
        "train": np.array(train, dtype=np.uint16),
        "val": np.array(val, dtype=np.uint16),
    }
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as packed:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array, allow_pickle=False)
            packed.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return whole.getvalue()


def verify(data: bytes, images: Bytes, labels: Bytes) -> None:
    """Fail unless the archive holds every image once, unaltered, in 1,437 + 360 samples of all classes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        together = sorted([*stored["train"].tolist(), *stored["val"].tolist()])
        checks = {
            "images unaltered": bool((stored["images"] == images).all()),
            "labels unaltered": bool((stored["labels"] == labels).all()),
            "each sample in one part": together == list(range(len(labels))),
            "360 to validate with": len(stored["val"]) == VAL_SAMPLES,
            "classes even": set(np.bincount(labels[stored["val"]]).tolist()) == {VAL_SAMPLES // CLASSES},
        }
    for name, holds in checks.items():
        if not holds:
            sys.exit(f"make_digits: not true: {name}")


def main() -> None:
    """Write or check the archive."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--check", action="store_true", help="compare with the file in the repository, write nothing"
    )
    check: bool = arguments.parse_args().check
    pixels, classes = load_digits(return_X_y=True)
    images, labels = pixels.reshape(-1, 8, 8).astype(np.uint8), classes.astype(np.uint8)
    data = archive(images, labels)
    verify(data, images, labels)
    if check and TARGET.read_bytes() != data:
        sys.exit(f"make_digits: {TARGET} differs from what this script writes")
    if not check:
        TARGET.write_bytes(data)
    print(f"{TARGET.name}: {len(data)} bytes, {len(labels)} images")


if __name__ == "__main__":
    main()
