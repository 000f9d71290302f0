"""How long the emulated platform takes for what AWS takes minutes for. Given to `Emulator(timing=...)`; values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each phase that has no work of its own, and of the platform's loops.

    On AWS: minutes of starting, 120 s between SIGTERM and SIGKILL, and a restart when spot capacity comes back.
    """

    starting_seconds: float = 0.1
    pending_seconds: float = 0.0
    downloading_seconds: float = 0.0
    uploading_seconds: float = 0.0
    restart_seconds: float = 0.2
    stop_grace_seconds: float = 10.0
    checkpoint_poll_seconds: float = 0.5
    log_flush_seconds: float = 0.2
