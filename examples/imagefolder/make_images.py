"""Write the shipped digits as image files, one folder a class: `python make_images.py [FOLDER]`, by default `images`.

Real images without a download, the same files each time: FOLDER/train/7/0012.png is sample 12 of the archive.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from gpuplan_job.data.digits import ARCHIVE

LEVELS = 16
"""The archive's white."""


def write(folder: Path) -> None:
    """Write all 1,797 images below a folder that is not there yet."""
    with np.load(ARCHIVE, allow_pickle=False) as digits:
        for part in ("train", "val"):
            for number in digits[part].tolist():
                path = folder / part / str(digits["labels"][number]) / f"{number:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.rint(digits["images"][number] * (255 / LEVELS)).astype(np.uint8)
                Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "images")
    if target.exists():
        sys.exit(f"{target} is there already: remove it, or name another folder")
    write(target)
    print(f"wrote {sum(1 for _ in target.rglob('*.png'))} images into {target}")
