"""What a plan keeps of the user's code: digests, counts and the commit, not the code itself.

Part of every plan, so it imports nothing that packing needs.
"""

from __future__ import annotations

from gpuplan.core.frozen import Frozen


class CodePackage(Frozen):
    """The user's code as a plan knows it."""

    sha256: str
    """Of the archive."""
    files_sha256: str
    """Of names and contents alone: the same at another commit."""
    archive_bytes: int
    files: int
    commit: str | None = None
    """None outside git, or before the first commit."""
    changed: int = 0
    """Files that differ from the commit, new ones among them."""
    notes: tuple[str, ...] = ()
    """What was left out that may be missed, and names that Python will read in another way."""
