"""How ranks come to save, or to stop, at the same optimizer step, without waiting for each other or for a GPU.

Called by `checkpoints`. The ranks vote by a maximum over gloo, on the CPU, every so many steps: the answer of one vote
is looked at when the next is called. Only steps that take long are worth waiting for. It must not touch a GPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Callable

_PERIOD_SECONDS = 0.25
"""Between votes; steps that take as long or longer are each followed by one."""
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Wish:
    """What a rank wants, and what all of them then do: one that stops saves, too."""

    save: bool = False
    stop: bool = False


def gloo_group(world_size: int) -> distributed.ProcessGroup | None:
    """Return a group of all ranks that never touches a GPU, None where there is one rank; a collective."""
    return cast("distributed.ProcessGroup", distributed.new_group(backend="gloo")) if world_size > 1 else None


class Agreement:
    """The votes of one training; every rank calls each method at the same step."""

    def __init__(
        self,
        group: distributed.ProcessGroup | None,
        rank: int,
        wish: Callable[[], Wish],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group
        self._rank = rank
        self._wish = wish
        self._clock = clock
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._gap = 1
        """Steps from vote to vote; rank 0 proposes it."""
        self._left = 1
        self._since = 0
        """Steps since the last vote."""
        self._voted = clock()
        self.delay_seconds = 0.0
        """Until what is not wished now, but at the next chance, comes about; as rank 0 measures it."""

    def stepped(self) -> Wish:
        """Return what the ranks have agreed to do after the optimizer step that was just taken."""
        if self._group is None:
            return self._wish()
        self._since += 1
        self._left -= 1
        if self._left > 0:
            return Wish()
        earlier, wish = self._answer(), self._wish()
        # A save that was agreed on comes after this vote: who asks for it again would have it twice.
        self._vote(Wish(save=wish.save and not earlier.save, stop=wish.stop))
        now = self._answer() if self._gap == 1 else Wish()
        self._left = self._gap
        return Wish(save=earlier.save or now.save, stop=earlier.stop or now.stop)

    def settled(self) -> Wish:
        """Return what the ranks want now; each waits for all."""
        if self._group is None:
            return self._wish()
        earlier = self._answer()
        self._since = 0  # whatever ends here is more than steps
        self._vote(self._wish())
        now = self._answer()
        return Wish(save=earlier.save or now.save, stop=earlier.stop or now.stop)

    def together(self) -> None:
        """Return when every rank is here.

        Raises:
            RuntimeError: one is gone.
        """
        if self._group is not None:
            distributed.barrier(self._group)

    def close(self) -> None:
        """End the votes; every rank calls it once, after the training."""
        if self._group is not None:
            self._answer()
            distributed.destroy_process_group(self._group)

    def _vote(self, wish: Wish) -> None:
        """Call a vote; rank 0 proposes how many steps lie between it and those that follow."""
        now, gap = self._clock(), 0
        if self._rank == 0:
            gap = self._gap
            if self._since:
                step_seconds = (now - self._voted) / self._since
                # A vote after each step is answered at once, any other by the time of the next.
                self.delay_seconds = step_seconds if gap == 1 else 2 * gap * step_seconds
                gap = max(1, min(_MOST_STEPS, 2 * gap, int(_PERIOD_SECONDS / max(step_seconds, 1e-6))))
        self._voted, self._since = now, 0
        ballot = torch.tensor([int(wish.save), int(wish.stop), gap])
        work = distributed.all_reduce(ballot, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (work, ballot)

    def _answer(self) -> Wish:
        """Return what the vote called last came to, and take up the gap that rank 0 proposed."""
        if self._pending is None:
            return Wish()
        (work, ballot), self._pending = self._pending, None
        work.wait()
        save, stop, gap = ballot.tolist()
        self._gap = gap
        return Wish(save=bool(save), stop=bool(stop))
