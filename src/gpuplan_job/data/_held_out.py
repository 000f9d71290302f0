"""Which samples of a class are validated with where nobody set any apart: about a tenth, for good.

Used by the kinds whose samples have names. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHARE = 0.1


def place(name: str) -> float:
    """Return where a sample's name falls in 0 .. 1, evenly and for good: new names move no old one."""
    # Bytes as the file system has them: a name need not be UTF-8.
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64


def positions(places: Sequence[float]) -> set[int]:
    """Return which of a class's samples, two or more, are held out: those whose place is below a tenth.

    Only where all of them fall on one side, the nearest to the threshold changes over: the class needs others there.
    """
    count = sum(value < _SHARE for value in places)
    nearest = sorted(range(len(places)), key=places.__getitem__)
    return set(nearest[: min(max(count, 1), len(places) - 1)])
