"""A launcher asks, a training answers: only one that listens, and only from then on."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from gpuplan_job import stop_request
from gpuplan_job.stop_request import StopRequest

if TYPE_CHECKING:
    from pathlib import Path


def listening(folder: Path) -> StopRequest:
    seconds = count()
    request = StopRequest(folder, clock=lambda: next(seconds))
    request.listen()
    return request


def test_nobody_listens_before_a_training_does_and_after_its_end(tmp_path: Path) -> None:
    assert not stop_request.ask(tmp_path)
    request = listening(tmp_path)
    assert not request.asked()
    request.close()
    assert not stop_request.ask(tmp_path)


def test_what_was_asked_is_heard_and_stays_so(tmp_path: Path) -> None:
    request = listening(tmp_path)
    assert stop_request.ask(tmp_path)
    assert request.asked()
    assert request.asked()


def test_what_an_earlier_process_was_asked_is_not_asked_of_the_next(tmp_path: Path) -> None:
    listening(tmp_path)
    stop_request.ask(tmp_path)
    assert not listening(tmp_path).asked()


def test_it_looks_at_the_disk_only_now_and_then(tmp_path: Path) -> None:
    request = StopRequest(tmp_path, clock=lambda: 0.0)
    request.listen()
    assert not request.asked()
    stop_request.ask(tmp_path)
    assert not request.asked()
