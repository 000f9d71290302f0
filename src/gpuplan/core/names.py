"""Names: closest spelling for a did-you-mean, the one slug for every sink, run ids, and who we are."""

from __future__ import annotations

import difflib
import getpass
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_SLUG_LENGTH = 24
_MILLISECONDS = 1000
_TIME_SYMBOLS = 9
_RANDOM_SYMBOLS = 4


def did_you_mean(wrong: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for a near miss, otherwise the list of choices."""
    options = list(choices)
    close = difflib.get_close_matches(wrong.lower(), options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from: {', '.join(options)}"


def slug(text: str) -> str:
    """Return `text` as lower-case words of [a-z0-9] joined by single hyphens, at most 24 characters, never empty.

    The one filter for user strings on their way to paths, job names and tags.
    """
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_SLUG_LENGTH].strip("-")
    return words or "run"


def owner() -> str:
    """Return who runs this process, as a slug."""
    try:
        return slug(getpass.getuser())
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return f"user-{os.getuid()}"


def run_id(workload: str, now: datetime, entropy: int) -> str:
    """Return `<slug>-<time-sortable id>`: 9 base-32 symbols of milliseconds since 1970, 4 of `entropy` (20 bits)."""
    millis = int(now.timestamp() * _MILLISECONDS)
    return f"{slug(workload)}-{_base32(millis, _TIME_SYMBOLS)}{_base32(entropy, _RANDOM_SYMBOLS)}"


def _base32(value: int, width: int) -> str:
    symbols = ""
    for _ in range(width):
        value, digit = divmod(value, 32)
        symbols = _CROCKFORD[digit] + symbols
    return symbols
