"""How ranks come to save at the same step: a real gloo group of one rank, and a clock that counts steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import distributed

from gpuplan_job.agreement import Agreement, Wish, gloo_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def group(tmp_path: Path) -> Iterator[distributed.ProcessGroup]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    made = gloo_group(2)
    assert made is not None
    yield made
    distributed.destroy_process_group()


class Training:
    """Saves when the ranks agree, and is due again ten seconds later."""

    INTERVAL = 10.0

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.now = 0.0
        self.due = self.INTERVAL
        self.saves: list[float] = []
        self.agreement = Agreement(group, 0, self.wish, lambda: self.now)

    def wish(self) -> Wish:
        return Wish(save=self.now + self.agreement.delay_seconds >= self.due)

    def steps(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self.now += seconds
            if self.agreement.stepped().save:
                self.saves.append(self.now)
                self.due = self.now + self.INTERVAL


@pytest.mark.parametrize("step_seconds", [0.001, 0.01, 0.1, 0.4, 3.0])
def test_a_save_happens_once_and_never_later_than_it_is_due(
    group: distributed.ProcessGroup, step_seconds: float
) -> None:
    training = Training(group)
    training.steps(int(45 / step_seconds), step_seconds)
    training.agreement.close()
    assert training.saves[-1] > 30
    gaps = [after - before for before, after in zip([0.0, *training.saves], training.saves, strict=False)]
    assert all(9.0 - step_seconds <= gap <= 10.0 + 1e-6 for gap in gaps), gaps
