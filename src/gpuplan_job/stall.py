"""A training that stands still: noticed from outside by the launcher, with every rank's stacks and the rank to blame.

Called by `launch` while it waits for the job's processes. Standard library only. A hung process cannot be relied on to
report itself, and NCCL's own limit is 10 minutes or more of all GPUs.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpuplan_job import heartbeat, user_frames
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gpuplan_job.heartbeat import Beat

START_SECONDS = 1800.0
"""Until the first steps are done: data are listed, kernels are chosen and compiled."""
_PERIOD_SECONDS = 1.0
_LONGEST_GAP_SECONDS = 5.0
"""Of the launcher's own absence that counts: one that was itself stopped must not blame the ranks."""
_STACKS_SECONDS = 3.0

Where = Literal["data loading", "checkpoint", "collective", "compilation", "code", "no answer"]
_PLACES: tuple[tuple[Where, re.Pattern[str]], ...] = (
    ("collective", re.compile(r"torch/distributed/distributed_c10d\.py|gpuplan_job/agreement\.py")),
    ("data loading", re.compile(r"torch/utils/data/")),
    (
        "checkpoint",
        re.compile(r"torch/serialization\.py|gpuplan_job/(checkpoint(s|_io|_folder)|manifest|atomic)\.py"),
    ),
    ("compilation", re.compile(r"torch/_(dynamo|inductor)/|triton/")),
    (
        "collective",
        re.compile(
            r"torch/(distributed|nn/parallel)/|torch/autograd/graph\.py|torch/cuda/(__init__|streams)\.py"
            r"|gpuplan_job/(figures|divergence|epoch_draws)\.py"
        ),
    ),
)
"""Files by which a stack is known. Who waits for other ranks does so wherever it was called from; the last of the
payload's own read losses, and so wait for the GPU."""
_FIX: dict[Where, str] = {
    "data loading": "check that the data can be read from there (a network file system, a mount of S3), and try fewer "
    "--workers",
    "checkpoint": "check the disk or mount that checkpoints are written to",
    "collective": "check the GPUs and the network between them (NCCL_DEBUG=INFO says more), then start again",
    "compilation": "train without --compile",
    "code": "look at the line that it stands in",
    "no answer": "the process is stopped, or stuck in the kernel: check the GPU (nvidia-smi, dmesg) and the disks",
}


@dataclass(frozen=True)
class Standing:
    """Where one rank stands."""

    rank: int
    steps: int
    phase: str
    where: Where
    frame: str
    """Innermost outside the standard library, `loader.py:12 in read`; empty where it did not answer."""


class Watchdog:
    """Looks at the ranks of this machine about once a second; `clock` counts seconds."""

    def __init__(
        self,
        folder: Path,
        ranks: Sequence[int],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self.say = say
        self.clock = clock
        self.sleep = sleep
        self._looked = clock()
        self._beats = dict.fromkeys(ranks, 0)
        self._silent = dict.fromkeys(ranks, 0.0)

    def look(self) -> None:
        """Note who has been heard of.

        Raises:
            JobError: a rank has been silent for longer than it said it might.
        """
        gap = self.clock() - self._looked
        if gap < _PERIOD_SECONDS:
            return
        self._looked += gap
        found = {rank: heartbeat.read(self.folder, rank) for rank in self.ranks}
        for rank, beat in found.items():
            beats = beat.beats if beat else 0
            heard = beats != self._beats[rank]
            self._beats[rank] = beats
            self._silent[rank] = 0.0 if heard else self._silent[rank] + min(gap, _LONGEST_GAP_SECONDS)
        late = [rank for rank, beat in found.items() if self._silent[rank] > _limit(beat)]
        if late:
            raise self._stalled(max(self._silent.values()), found)

    def _stalled(self, seconds: float, found: dict[int, Beat | None]) -> JobError:
        for beat in found.values():
            if beat is not None:
                heartbeat.ask_for_stacks(beat)
        self.sleep(_STACKS_SECONDS)
        standings, texts = [], []
        for rank, beat in found.items():
            stacks = self._stacks(rank)
            texts.append(f"stacks of rank {rank}:\n{stacks or 'none: it does not answer'}")
            steps, phase = (beat.steps, beat.phase) if beat else (0, "start-up")
            standings.append(standing(rank, steps, phase, stacks))
        for text in texts:
            self.say(text)
        return explained(seconds, standings, "\n".join(texts))

    def _stacks(self, rank: int) -> str:
        try:
            return heartbeat.stacks_path(self.folder, rank).read_text(errors="replace").strip()
        except OSError:
            return ""


def standing(rank: int, steps: int, phase: str, stacks: str) -> Standing:
    """Return where a rank stands, from what faulthandler wrote of it: the main thread comes last."""
    main = stacks.rpartition("(most recent call first):")[2]
    frames = list(user_frames.printed(main))
    if not frames:
        return Standing(rank, steps, phase, "no answer", "")
    # What the standard library waits in says little; who called it does.
    inner = next((frame for frame in frames if not user_frames.is_standard(frame.file)), frames[0])
    shown = f"{inner.file.rpartition('/')[2]}:{inner.line} in {inner.function}"
    for where, pattern in _PLACES:
        if any(pattern.search(frame.file) for frame in frames):
            return Standing(rank, steps, phase, where, shown)
    return Standing(rank, steps, phase, "code", shown)


def behind(standings: Sequence[Standing]) -> list[Standing]:
    """Return the ranks that the others wait for: those in no collective, else those with the fewest steps.

    All of them, where nothing tells them apart.
    """
    apart = [one for one in standings if one.where != "collective"]
    if apart:
        return apart
    fewest = min(one.steps for one in standings)
    return [one for one in standings if one.steps == fewest]


def explained(seconds: float, standings: Sequence[Standing], stacks: str) -> JobError:
    """Return the failure that a stall is, with all stacks in its trace."""
    blamed = behind(standings)
    first = blamed[0]
    others = [one.rank for one in standings if one not in blamed]
    place = f"{first.where}, at {first.frame}" if first.frame else "it does not answer"
    if len(standings) == 1:
        who = f"it stands in {place}" if first.frame else place
    elif others:
        who = f"rank {_listed([one.rank for one in blamed])} is behind ({place}), the others wait for it"
    else:
        who = f"all ranks stand still, rank {first.rank} in {place}"
    steps = max(one.steps for one in standings)
    error = JobError(
        "stall", f"nothing has moved for {seconds:.0f} s, after optimizer step {steps}: {who}", _FIX[first.where]
    )
    error.add_note(stacks)
    error.rank = first.rank
    return error


def _limit(beat: Beat | None) -> float:
    return beat.limit_seconds if beat else START_SECONDS


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
