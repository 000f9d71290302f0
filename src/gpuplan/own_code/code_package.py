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


class CheckedCode(Frozen):
    """What the check on the CPU has shown, as far as it is the same on every machine."""

    batch: tuple[str, ...]
    """Type and shape of each tensor of a batch of two."""
    kind: str
    """`lightning`, `network`, or `torchvision`."""
    optimizer: str | None = None
    """Class of the optimizer that a LightningModule configures."""
    rate_at: str | None = None
    """Where the model keeps the learning rate that its optimizer follows."""
    notes: tuple[str, ...] = ()
    """What gpuplan does in another way than the user's code says."""
    reads: tuple[str, ...] = ()
    """Some of the files and folders that the code opened and that are not sent with it."""
