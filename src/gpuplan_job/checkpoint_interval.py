"""How often a training saves its state: what saving costs against what a failure would undo. Pure.

The job decides with it and the client plans with it. Standard library only.
"""

from __future__ import annotations

import math

LEAST_SAVES = 20
"""An interval is at least as many times what a save takes, so that saving takes no more than 5 % of the time."""
MOST_SECONDS = 1800.0
"""However rare failures are said to be, nobody should lose more than half an hour."""


def interval_seconds(save_seconds: float, mean_seconds_between_failures: float) -> float:
    """Return the seconds between the end of a save and the next: sqrt(2 x save x MTBF), within the two bounds.

    Young 1974 (doi 10.1145/361147.361115); Daly 2006 (doi 10.1016/j.future.2004.11.016) has the same first term, and
    its others vanish where a save takes a small part of the time between failures, as it does here. The floor goes
    first: a state that takes minutes to save is saved more seldom than every half hour.
    """
    optimum = math.sqrt(2 * save_seconds * mean_seconds_between_failures)
    return max(min(optimum, MOST_SECONDS), LEAST_SAVES * save_seconds)
