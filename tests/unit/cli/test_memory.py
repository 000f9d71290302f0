"""`gpuplan memory`: what it prints, for people and for scripts, and what it says of a wrong question."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.cli.app import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all: the trace with checkpointing, which does not ship, is made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPLAN_HOME", str(home))


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main(["memory", *arguments])
    captured = capsys.readouterr()
    assert end.value.code == status, captured.err
    return captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, *arguments, "-o", "json")[0])
    return found


RESNET = ("--model", "resnet50", "--per-gpu-batch", "64", "--precision", "fp32")


def test_the_document_has_what_scripts_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *RESNET, "--instance", "g5")
    keys = {"model", "per_gpu_batch", "image_size", "precision", "optimizer", "peak_gib", "min_card_gib", "items"}
    assert keys | {"error_band", "capacity"} <= set(found)
    assert found["capacity"] == {"instance": "g5.12xlarge", "gib": pytest.approx(22.35, abs=0.01), "verdict": "fits"}
    assert sum(item["gib"] for item in found["items"]) == pytest.approx(found["peak_gib"])
    low, high = found["error_band"]
    assert low <= found["peak_gib"] <= high


def test_without_a_card_every_gpu_is_shown_and_none_is_the_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *RESNET)
    assert "capacity" not in found
    assert {card["gpu"] for card in found["cards"]} >= {"A10G", "T4", "L4", "H100"}


def test_modules_add_up_to_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *RESNET, "--instance", "g5")
    used = sum(item["gib"] for item in found["items"] if item["name"] != "allocator")
    assert sum(module["gib"] for module in found["modules"]) == pytest.approx(used)


def test_gradients_are_alive_at_the_peak_of_lightning_s_loop_only(capsys: pytest.CaptureFixture[str]) -> None:
    of = {loop: document(capsys, *RESNET, "--loop", loop) for loop in ("lightning", "plain")}
    gradients = {
        loop: sum(item["gib"] for item in found["items"] if item["name"] == "gradients") for loop, found in of.items()
    }
    assert gradients["lightning"] > 0.09 > gradients["plain"]


def test_the_largest_safe_batch_grows_with_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *RESNET, "--find-batch")
    largest = [card["largest_batch"] for card in found["cards"]]
    assert largest == sorted(largest, reverse=True)
    assert largest[-1] > 0


def test_a_card_that_is_too_small_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, *RESNET, "--card-gib", "4")
    assert "TOO BIG" in text
    assert document(capsys, *RESNET, "--card-gib", "4")["capacity"]["verdict"] == "too_big"


def test_under_a_small_card_s_pressure_the_peak_is_lower(capsys: pytest.CaptureFixture[str]) -> None:
    roomy = document(capsys, *RESNET, "--card-gib", "80")
    least = roomy["min_card_gib"]
    assert document(capsys, *RESNET, "--card-gib", str(least * 1.03))["peak_gib"] <= roomy["peak_gib"]


def test_the_text_names_kinds_modules_cards_and_savers(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, *RESNET, "--instance", "g5")
    for part in ("activations", "with context", "layer1", "A10G", "half the batch", "mixed precision", "next"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "resnet5O"), "--model resnet50"),
        (("--optimizer", "lion"), "--optimizer"),
        (("--loop", "mine"), "--loop"),
        (("--precision", "fp8"), "--precision"),
        (("--instance", "nowhere"), "profiles list"),
        (("--data", "nothing:there"), "--data imagenet"),
    ],
)
def test_a_wrong_question_is_answered_with_a_right_one(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in run(capsys, *arguments, status=2)[1]


@pytest.mark.slow
def test_what_has_no_trace_gives_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "--model", "nowhere_at_all:Net", status=9)
    assert not out
    assert "nowhere_at_all" in err
