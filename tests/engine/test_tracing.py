"""Traces that do not ship: made once in a process without credentials, kept, and made anew when the code changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.engine.tracing import LocalTraces
from gpuplan.planning.traces.source import Shipped, Traced
from gpuplan_job.step_trace import InputSpec, TraceRequest

if TYPE_CHECKING:
    from pathlib import Path

SMALL = InputSpec("images", height=32, width=32, classes=10)
OWN = TraceRequest("net_of_mine:make", SMALL, "fp32")
CODE = """
import os
from torch import nn
from width_of_net import WIDTH

def make():
    seen = [name for name in os.environ if name.startswith("AWS_")]
    if seen:
        raise RuntimeError(f"a model has no business with {seen}")
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, WIDTH))

def fails():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of the user's own, who stands in it and has credentials."""
    (tmp_path / "net_of_mine.py").write_text(CODE)
    (tmp_path / "width_of_net.py").write_text("WIDTH = 10\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for a model")
    return tmp_path


def outputs(found: Traced | Unknown) -> int:
    assert isinstance(found, Traced), found
    return found.step.trainable[-1] // 4


def test_what_ships_is_neither_traced_nor_kept(tmp_path: Path) -> None:
    said: list[str] = []
    found = LocalTraces(tmp_path, said.append).find(TraceRequest("resnet50", InputSpec("images", classes=7), "mixed"))
    assert outputs(found) == 7
    assert not said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_trace_is_made_once_kept_and_made_anew_when_a_file_it_came_from_changes(own: Path) -> None:
    said: list[str] = []
    folder = own / "kept"
    traces = LocalTraces(folder, said.append)
    first = traces.find(OWN)
    assert outputs(first) == 10
    assert traces.find(OWN) is first, "planning keeps what it computed of an answer by the answer itself"
    assert outputs(LocalTraces(folder, said.append).find(OWN)) == 10
    assert len(said) == 1
    (own / "width_of_net.py").write_text("WIDTH = 12\n")
    assert outputs(LocalTraces(folder, said.append).find(OWN)) == 12
    assert len(said) == 2


@pytest.mark.slow
def test_a_kept_trace_that_was_damaged_is_made_anew(own: Path) -> None:
    said: list[str] = []
    folder = own / "kept"
    assert outputs(LocalTraces(folder, said.append).find(OWN)) == 10
    kept = next(folder.iterdir())
    kept.write_text(kept.read_text()[:-40])
    assert outputs(LocalTraces(folder, said.append).find(OWN)) == 10
    assert len(said) == 2


@pytest.mark.slow
def test_a_size_that_a_model_does_not_take_is_unknown_though_a_trace_could_be_scaled_to_it(tmp_path: Path) -> None:
    odd = TraceRequest("vit_b_16", InputSpec("images", height=230, width=230), "fp32")
    assert isinstance(Shipped().find(odd), Traced)
    found = LocalTraces(tmp_path, lambda _: None).find(odd)
    assert isinstance(found, Unknown)
    assert "does not take 230x230 images" in found.unknown
    assert "--image-size" in found.unknown


@pytest.mark.slow
def test_what_cannot_be_traced_is_unknown_with_the_reason(own: Path) -> None:
    found = LocalTraces(own / "kept", lambda _: None).find(TraceRequest("net_of_mine:fails", SMALL, "fp32"))
    assert isinstance(found, Unknown)
    assert "no weights here" in found.unknown
