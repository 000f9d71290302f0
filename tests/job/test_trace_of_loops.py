"""A trace is of what a training loop does: every layer runs, all of the output is held; the same each time."""

from pathlib import Path

import pytest

from gpuplan_job.step_trace import InputSpec, StepTrace, TraceRequest

SOURCE = '''
import torch
from torch import nn


class Output(dict):
    __getattr__ = dict.__getitem__


class Cache:
    def __init__(self, keys):
        self.keys = [keys]


class Language(nn.Module):
    """Returns its loss, its logits and a cache, and drops each layer at random, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 64)

    def forward(self, tokens, labels):
        hidden = self.embedding(tokens)
        keys = hidden * 2
        for layer in self.layers:
            if torch.rand([]) < 0.0:
                continue
            hidden = torch.tanh(layer(hidden))
        logits = self.head(hidden)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Output(loss=loss, logits=logits, past_key_values=Cache(keys))
'''


@pytest.fixture
def language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TraceRequest:
    (tmp_path / "language_of_test_trace.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return TraceRequest("language_of_test_trace:Language", InputSpec("tokens", length=16), "mixed")


def traced(request: TraceRequest) -> StepTrace:
    from gpuplan_job.trace.step import trace

    return trace(request)


def test_a_plain_loop_holds_loss_logits_and_the_cache_beside_them(language: TraceRequest) -> None:
    found = traced(language)
    held = sorted(found.allocations.per_sample[number] for number in found.outputs)
    loss, *tensors = held
    assert loss == 0
    assert tensors == [16 * 64 * 2, 16 * 32 * 4]


def test_no_layer_is_left_out_by_a_random_draw(language: TraceRequest) -> None:
    found = traced(language)
    layers = {f"layers.{number}" for number in range(4)}
    assert layers <= {found.modules[number] for number in found.allocations.module}


def test_a_trace_is_the_same_each_time(language: TraceRequest) -> None:
    first = traced(language).to_json()
    assert all(traced(language).to_json() == first for _ in range(3))
