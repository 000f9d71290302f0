"""What goes wrong in one run, drawn from a seed: answers to the create calls, deaths of the client, a second client.

Used by `double_submit.py`, for gpuplan and for the script alike.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.testing import Emulator

CREATE = "CreateTrainingJob"
STEPS = ("lr-find", "train")
ANSWERS = {
    "reply lost": ("lose_reply", ()),
    "reply cut": ("garbage", ()),
    "reply garbled": ("garbage", (b"<html>a proxy's page</html>",)),
    "500": ("refuse", ("InternalFailure", 500)),
    "503": ("refuse", ("ServiceUnavailable", 503)),
    "throttled": ("refuse", ("ThrottlingException",)),
    "refused for quota": ("refuse", ("ResourceLimitExceeded",)),
}
POINTS = (
    *("before-intent", "after-intent", "aws/after-code-upload", "after-submit-before-record", "after-submitted"),
    *("while-polling", "after-job-ended", "aws/after-publish", "after-result-before-record", "after-result-recorded"),
    *("aws/after-head-write", "after-conclusion", "between-steps"),
)
TAKE_OVER, CANCEL = "resume --take-over elsewhere", "cancel elsewhere"
SECOND = ("resume here", "resume elsewhere", TAKE_OVER, CANCEL)
DEATHS = ("before the call", "after the call", "while it waits")
ALL = "all trials"
LATE_SECONDS, HIDDEN_SECONDS, POLL_SECONDS = 0.7, 0.8, 0.2
"""With this interval a client looks for a second whether a job is there; with the default of 20 s it looks a minute."""


@dataclass(frozen=True)
class Trial:
    """What goes wrong in one run."""

    number: int
    answers: dict[str, tuple[str, ...]]
    """For each step, what becomes of its first create calls."""
    late: bool
    hidden: bool
    kill_at: str
    kill_after: float | None
    second: str
    second_after: float
    script_dies: str

    @classmethod
    def draw(cls, seed: int, number: int) -> Trial:
        """Return the trial of that number: the same for the same seed."""
        dice = random.Random(f"{seed}/{number}")  # noqa: S311 - a schedule, no secret
        death = dice.choices(["none", "point", "moment"], [2, 5, 3])[0]
        return cls(
            number=number,
            answers={step: tuple(_answers(dice)) for step in STEPS},
            late=dice.random() < 0.2,  # noqa: PLR2004 - one in five
            hidden=dice.random() < 0.3,  # noqa: PLR2004 - about one in three
            kill_at=f"{dice.choice(POINTS)}:kill:{dice.choice([1, 1, 2])}" if death == "point" else "",
            kill_after=dice.uniform(0, 4) if death == "moment" else None,
            second=dice.choice(("", *SECOND)),
            second_after=dice.uniform(0, 2),
            script_dies="" if death == "none" else dice.choice(DEATHS),
        )

    def rows(self) -> set[str]:
        """Return the rows of the table that it counts in."""
        found = {self.second and f"second client: {self.second}", ALL}
        for answers in self.answers.values():
            found |= {f"{answer} x{answers.count(answer)}" for answer in answers}
        found |= {"answered late"} if self.late else set()
        found |= {"not shown at first"} if self.hidden else set()
        found |= {"kill -9 at a failpoint"} if self.kill_at else set()
        found |= {"kill -9 at any moment"} if self.kill_after is not None else set()
        return found - {""}

    def set_up(self, aws: Emulator, base: str) -> None:
        """Let the faults wait for the jobs whose names begin with `base`."""
        for step, answers in self.answers.items():
            where = f"{base}-{step}-"
            for answer in answers:
                fault, arguments = ANSWERS[answer]
                getattr(aws.faults, fault)(CREATE, *arguments, times=1, where=where)
            if self.late:
                aws.faults.delay(CREATE, LATE_SECONDS, where=where)
            if self.hidden:
                aws.faults.hide(f"{where}*", HIDDEN_SECONDS)


def _answers(dice: random.Random) -> Iterator[str]:
    """Yield what becomes of the first create calls of a step: nothing, one fault up to four times, or a mixture."""
    kind = dice.choices(["none", "one", "mixture"], [3, 4, 3])[0]
    if kind == "one":
        yield from [dice.choice(list(ANSWERS))] * dice.randint(1, 4)
    elif kind == "mixture":
        yield from dice.choices(list(ANSWERS), k=dice.randint(2, 4))
