"""Named places where a test may kill the client: `GPUPLAN_FAILPOINT=name:kill`. No effect otherwise.

The crash tests read the names from the source, so a failpoint that is added is a failpoint that is tested.
"""

from __future__ import annotations

import os
import signal


def failpoint(name: str) -> None:
    """Die by SIGKILL here if the environment names this point; `stop` suspends instead."""
    wanted, _, action = os.environ.get("GPUPLAN_FAILPOINT", "").partition(":")
    if wanted != name:
        return
    os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
