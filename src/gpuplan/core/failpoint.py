"""Named places where a test may kill the client: `GPUPLAN_FAILPOINT=name:kill`. No effect otherwise.

`name:kill:3` is the third time the place is reached. The crash tests read the names from the source, so a failpoint
that is added is a failpoint that is tested; those that only a run in AWS reaches are named `aws/...`.
"""

from __future__ import annotations

import itertools
import os
import signal

_reached = itertools.count(1)


def failpoint(name: str) -> None:
    """Die by SIGKILL here if the environment names this point; `stop` suspends instead."""
    wanted, _, what = os.environ.get("GPUPLAN_FAILPOINT", "").partition(":")
    if wanted != name:
        return
    action, _, time = what.partition(":")
    if next(_reached) == int(time or 1):
        os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
