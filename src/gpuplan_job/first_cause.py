"""Which rank failed first, and why: from what each rank reported, how each process ended, and what the kernel did.

Called by `launch` once all processes are gone. Pure but for reading the job's folder and /proc; standard library only.
"""

from __future__ import annotations

import math
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import rank, user_frames
from gpuplan_job.causes import LESS_MEMORY, SEE_OTHERS, by_text
from gpuplan_job.contract import EXIT_CODES, FAILURE_FILE, Failure, FailureKind
from gpuplan_job.document import ContractError
from gpuplan_job.failures import RANKS_FOLDER, report_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan_job.causes import Cause
    from gpuplan_job.contract import JobInput
    from gpuplan_job.rank import RankEnd

_SEE_LOG = "read the end of this job's log: gpuplan logs RUN"
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
_SHELL_SIGNAL = 128
_SEEN_LATE_SECONDS = 1.0


@dataclass(frozen=True)
class RankStory:
    """All that is known of a rank: its own report, its end; either may be missing."""

    rank: int
    report: Failure | None
    end: RankEnd | None

    @property
    def innocent(self) -> bool:
        """It ended well, or because it was told to."""
        return self.report is None and self.end is not None and (self.end.code == 0 or self.end.stopped)

    @property
    def echo(self) -> bool:
        """It tells of nothing but the end of another rank."""
        if self.report is not None:
            return self.report.echo
        thrown = self.thrown
        return thrown is not None and thrown.kind == "communication"

    @property
    def thrown(self) -> Cause | None:
        """What the C++ exception means that ended it: so do NCCL's watchdog and gloo end a rank."""
        return by_text(self.end.thrown) if self.end is not None and self.end.code == -signal.SIGABRT else None

    @property
    def at(self) -> float:
        """When its trouble began, in seconds since the epoch; infinite where that is not known."""
        if self.report is not None and self.report.at is not None:
            return self.report.at
        if self.end is None:
            return math.inf
        killed = self.end.code < 0 and -self.end.code != signal.SIGABRT
        # Its end was seen a little later than it happened, and others may have met it before. An abort is different:
        # it is also how NCCL ends a rank whose peer is gone.
        return self.end.at - _SEEN_LATE_SECONDS if killed else self.end.at


def stories(folder: Path, ranks: Sequence[int]) -> list[RankStory]:
    """Read what the ranks of this machine left in a job's folder."""
    ends = {end.rank: end for end in rank.read(folder / RANKS_FOLDER)}
    return [RankStory(number, _report(report_path(folder, number)), ends.get(number)) for number in ranks]


def oom_kills(root: Path = Path("/")) -> int:
    """Return how many processes this machine's kernel has killed for want of memory so far; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in (root / "proc" / "vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def find(job_input: JobInput | None, found: Sequence[RankStory], folder: Path, oom_killed: int) -> Failure | None:
    """Return the failure that came first, None where no rank says or shows anything.

    What a rank meets because another has ended is an echo: it counts only where there is nothing else. `oom_killed` is
    how many processes the kernel killed for want of memory while the job ran.
    """
    guilty = sorted((story for story in found if not story.innocent), key=lambda story: story.at)
    if not guilty or not any(story.report or story.end for story in found):
        return _report(folder / FAILURE_FILE)
    causes = [story for story in guilty if not story.echo]
    first = (causes or guilty)[0]
    failure = first.report or _silent(job_input, first, oom_killed)
    if failure.kind == "killed" and oom_killed and first.report is not None:  # a data-loading worker
        failure = replace(failure, kind="out-of-memory", message=_by_kernel(failure.message), fix=LESS_MEMORY)
    return _with_end(failure, first.end)


def exit_code(failure: Failure) -> int:
    """Return the exit code of a job that failed so."""
    number = getattr(signal, failure.signal, None) if failure.signal else None
    if number is not None and failure.kind in {"killed", "crash"}:
        return _SHELL_SIGNAL + int(number)
    return EXIT_CODES[failure.kind]


def _silent(job_input: JobInput | None, story: RankStory, oom_killed: int) -> Failure:
    """Return the failure of a rank that ended without a report."""
    kind, message, fix = _of_end(story, oom_killed)
    frame = user_frames.of_crash(story.end.last_lines) if story.end and kind == "crash" else None
    return Failure(
        run_id=job_input.run_id if job_input else "",
        step=job_input.step if job_input else "",
        attempt=job_input.attempt if job_input else 0,
        kind=kind,
        message=f"{message} ({frame})" if frame else message,
        fix=fix,
        rank=story.rank,
        where=str(frame) if frame else "",
        at=story.end.at if story.end else None,
        echo=story.echo,
    )


def _of_end(story: RankStory, oom_killed: int) -> tuple[FailureKind, str, str]:
    if story.end is None:
        return "killed", "its process and the one that watched it are gone without a word", _SEE_LOG
    if story.end.code >= 0:
        said = f"its process ended with exit code {story.end.code} and without an error of Python's"
        return "crash", said, f"{_SEE_LOG}; something called exit"
    if story.thrown is not None:
        return story.thrown.kind, f"it aborted: {story.end.thrown}", story.thrown.fix
    name = _name(-story.end.code)
    if name == signal.SIGKILL.name and oom_killed:
        return "out-of-memory", _by_kernel("its process was ended by SIGKILL"), LESS_MEMORY
    if -story.end.code in _CRASHES:
        return "crash", f"its process crashed with {name}: a fault in native code", f"{_SEE_LOG}; it may name the line"
    often = "; most often that means no memory is left" if name == signal.SIGKILL.name else ""
    return "killed", f"its process was ended by {name} from outside{often}", f"{LESS_MEMORY}; or {SEE_OTHERS}"


def _by_kernel(message: str) -> str:
    return f"{message}: the machine's memory ran out, and the kernel ended it"


def _with_end(failure: Failure, end: RankEnd | None) -> Failure:
    if end is None:
        return failure
    if end.code < 0:
        name = "" if end.stopped else _name(-end.code)
        return replace(failure, signal=name, last_lines=end.last_lines)
    return replace(failure, exit_code=end.code or None, last_lines=end.last_lines)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _report(path: Path) -> Failure | None:
    try:
        return Failure.from_json(path.read_bytes())
    except (OSError, ContractError):
        return None
