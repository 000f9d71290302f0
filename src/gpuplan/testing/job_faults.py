"""Faults of the platform behind the API: jobs that hide, odd states, no capacity, slow stops, missing logs.

Asked by the training-job API and the executor. A job is given by its name or a pattern such as `"*-train-*"`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import RLock

CAPACITY_REASON = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)


@dataclass
class JobFaults:
    """The platform's misbehaviour that is switched on; safe to use from any thread."""

    _hidden: dict[str, float] = field(default_factory=dict)
    _shown: dict[str, tuple[str, str]] = field(default_factory=dict)
    _no_capacity: dict[str, int | None] = field(default_factory=dict)
    _slow_stops: dict[str, float] = field(default_factory=dict)
    _without_logs: set[str] = field(default_factory=set)
    _lock: RLock = field(default_factory=RLock)

    def hide(self, name: str = "*", seconds: float = 1.0) -> None:
        """Let Describe and List not show a job for so many seconds after it was created."""
        with self._lock:
            self._hidden[name] = seconds

    def status(self, name: str, secondary: str, primary: str = "InProgress") -> None:
        """Let Describe and List show these raw states, known to AWS's enums or not, whatever the job does."""
        with self._lock:
            self._shown[name] = (primary, secondary)

    def capacity(self, instance_type: str = "*", times: int | None = 1) -> None:
        """Let the next jobs on this instance type fail for want of capacity."""
        with self._lock:
            self._no_capacity[instance_type] = times

    def stuck_stopping(self, name: str = "*", seconds: float = 1.0) -> None:
        """Let a stopped job stay in Stopping for so many seconds more."""
        with self._lock:
            self._slow_stops[name] = seconds

    def drop_logs(self, name: str = "*") -> None:
        """Let CloudWatch have neither a log group nor a stream for a job."""
        with self._lock:
            self._without_logs.add(name)

    def clear(self) -> None:
        """Forget every fault; what it did already stays done."""
        with self._lock:
            self._hidden.clear()
            self._shown.clear()
            self._no_capacity.clear()
            self._slow_stops.clear()
            self._without_logs.clear()

    def hides(self, name: str, created_monotonic: float) -> bool:
        """Tell whether a job is too fresh to be shown."""
        age = time.monotonic() - created_monotonic
        with self._lock:
            return any(fnmatchcase(name, each) and age < seconds for each, seconds in self._hidden.items())

    def shows(self, name: str) -> tuple[str, str] | None:
        """Return the primary and secondary state to show instead of the real ones."""
        with self._lock:
            return next((states for each, states in self._shown.items() if fnmatchcase(name, each)), None)

    def takes_capacity(self, instance_type: str) -> bool:
        """Tell whether this job gets no machine, and use the fault up."""
        with self._lock:
            for each, left in self._no_capacity.items():
                if fnmatchcase(instance_type, each):
                    if left is not None:
                        self._no_capacity[each] = left - 1
                        if left <= 1:
                            del self._no_capacity[each]
                    return True
            return False

    def stopping_seconds(self, name: str) -> float:
        """Return how long a job stays in Stopping after it stopped."""
        with self._lock:
            return max((s for each, s in self._slow_stops.items() if fnmatchcase(name, each)), default=0.0)

    def drops_logs(self, name: str) -> bool:
        """Tell whether a job writes no logs."""
        with self._lock:
            return any(fnmatchcase(name, each) for each in self._without_logs)
