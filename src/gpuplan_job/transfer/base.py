"""What an LR transfer policy is given and what it must offer; every file beside this one is such a policy.

Used by the policies and by whoever loads them. It must not name a policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Transfer:
    """A change of batch; batches in samples per optimizer step."""

    batch_from: int
    batch_to: int
    noise_scale: float | None
    """B_noise in samples; None where it was not measured or the measurement carries no signal."""
    checked: float | None = None
    """LR that a range test at `batch_to` itself gives over the one found at `batch_from`; None: there was none."""

    def __post_init__(self) -> None:
        """Refuse an empty batch and a noise scale that is no finite, non-negative number."""
        if min(self.batch_from, self.batch_to) < 1:
            raise ValueError("batch_from and batch_to must be at least 1")
        if self.noise_scale is not None and not (math.isfinite(self.noise_scale) and self.noise_scale >= 0):
            raise ValueError(f"noise_scale must be finite and not negative, not {self.noise_scale!r}")
        if self.checked is not None and not (math.isfinite(self.checked) and self.checked > 0):
            raise ValueError(f"checked must be finite and positive, not {self.checked!r}")

    @property
    def ratio(self) -> float:
        """How many times larger the new batch is."""
        return self.batch_to / self.batch_from


class Policy(Protocol):
    """What a file of this folder offers.

    Laws, checked over every file: the multiplier is finite and positive, 1 where the batch does not change, and never
    falls as `batch_to` grows with all else the same.
    """

    def can_say(self, transfer: Transfer) -> bool:
        """Return whether what the policy goes by was measured; where not, `multiplier` is a fall-back."""
        ...

    def multiplier(self, transfer: Transfer) -> float:
        """Return the factor that carries an LR from `batch_from` to `batch_to`."""
        ...

    def note(self, transfer: Transfer) -> str | None:
        """Return what the user should know of this very transfer, in one sentence; None: nothing."""
        ...
