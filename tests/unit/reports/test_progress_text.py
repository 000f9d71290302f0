"""A line of progress as people read it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import time_left
from gpuplan.reports.progress_text import money_text, progress_line
from gpuplan_job.contract import Progress

VALUES = {"loss": 3.214, "learning_rate": 0.08117, "samples_per_second": 1041.7}
AT = Progress("train", "epoch 4 of 90", 20_016, 450_360, VALUES, eta_seconds=51_600.0)


def test_a_line_says_where_how_fast_how_long_and_how_much() -> None:
    money = money_text(Decimal("12.401"), Decimal(400))
    assert progress_line(AT, money) == (
        "train: epoch 4 of 90, step 20,016 of 450,360  loss 3.21  LR 0.0812  1,042 samples/s  ETA 14 h 20 min  "
        "$12.40 so far (at most $400.00)"
    )


def test_what_is_not_known_yet_or_costs_nothing_is_left_out() -> None:
    assert progress_line(Progress("lr-find", "noise scale", 0, 300, {})) == "lr-find: noise scale, step 0 of 300"


def test_at_the_end_no_time_is_left_to_tell() -> None:
    values = {"loss": 0.01, "val_loss": 0.0574, "val_accuracy": 0.986, "samples_per_second": 35.66}
    line = progress_line(Progress("train", "epoch 5 of 5", 115, 115, values, eta_seconds=0.0))
    assert line.endswith("loss 0.0100  val loss 0.0574  val acc 0.986  35.7 samples/s")


def test_a_cost_that_is_not_known_says_why() -> None:
    assert money_text(Unknown(unknown="no price"), None) == "cost so far unknown: no price"
    assert money_text(Decimal(1), None) == "$1.00 so far"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (51_600, "14 h 20 min"), (190_800, "2 d 5 h")],
)
def test_the_time_left_has_the_units_people_use(seconds: float, text: str) -> None:
    assert time_left(seconds) == text
