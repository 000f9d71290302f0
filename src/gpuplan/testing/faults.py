"""`aws.faults`: everything that a test can let go wrong, in one place. Held by the emulator, asked by its parts."""

from __future__ import annotations

from dataclasses import dataclass

from gpuplan.testing.job_faults import JobFaults
from gpuplan.testing.wire_faults import WireFaults


@dataclass
class Faults(WireFaults, JobFaults):
    """Faults of the wire (`lose_reply`, `refuse`, ...) and of the platform (`hide`, `capacity`, ...)."""

    def clear(self) -> None:
        """Forget every fault."""
        WireFaults.clear(self)
        JobFaults.clear(self)
