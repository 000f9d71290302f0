"""The check of a user's own code is made once, kept until what it saw changes, and its failure is the user's error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import ExitCode, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.engine.checking import checked
from gpuplan.engine.payload_process import Failed, PayloadProcess
from gpuplan.own_code.package import Packed, pack
from gpuplan_job.code_check import CheckRequest, CodeCheck
from gpuplan_job.contract import DataDescription

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.document import Document

REQUEST = CheckRequest("net:Net", {}, "net:data", {}, None, None, here=False)
FOUND = CodeCheck(DataDescription(4, 2, 1, 8, 8, 2, 0.0), ["float32 [2, 1]"], "network", [], None, "", [])


class Payload(PayloadProcess):
    """A payload that answers what it is told to, and counts."""

    def __init__(self, answer: str | Failed, torch: str | None = "2.6") -> None:
        self.answer, self.torch, self.asked = answer, torch, 0

    def versions(self) -> list[str] | None:
        return None if self.torch is None else [self.torch]

    def ask(self, module: str, request: Document, code: bytes | None) -> str | Failed:
        assert (module, request) == ("gpuplan_job.check", REQUEST)
        assert code is not None
        self.asked += 1
        return self.answer


@pytest.fixture
def code(tmp_path: Path) -> Packed:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text("class Net: pass\n")
    return pack(folder, most_mb=1)


def test_a_check_is_made_once_and_anew_for_other_code_another_torch_or_damage(code: Packed, tmp_path: Path) -> None:
    payload = Payload(FOUND.to_json())
    said: list[str] = []
    folder = tmp_path / "checks"
    assert checked(REQUEST, code, folder, said.append, payload) == FOUND
    assert checked(REQUEST, code, folder, said.append, payload) == FOUND
    assert (payload.asked, len(said)) == (1, 1)
    assert said[0].startswith("checking net:Net on net:data on the CPU, once")
    other = replace(code, code=code.code.model_copy(update={"files_sha256": "0" * 64}))
    checked(REQUEST, other, folder, said.append, payload)
    payload.torch = "2.7"
    checked(REQUEST, code, folder, said.append, payload)
    assert payload.asked == 3
    for path in folder.iterdir():
        path.write_text("half")
    checked(REQUEST, code, folder, said.append, payload)
    assert payload.asked == 4


def test_the_same_files_at_another_commit_are_not_checked_again(code: Packed, tmp_path: Path) -> None:
    payload = Payload(FOUND.to_json())
    checked(REQUEST, code, tmp_path, lambda _: None, payload)
    committed = replace(code, code=code.code.model_copy(update={"commit": "abc", "sha256": "1" * 64}))
    checked(REQUEST, committed, tmp_path, lambda _: None, payload)
    assert payload.asked == 1


def test_a_check_is_made_anew_when_a_file_that_it_read_outside_the_code_changes(code: Packed, tmp_path: Path) -> None:
    read = tmp_path / "labels.csv"
    read.write_text("a")
    seen = read.stat()
    payload = Payload(replace(FOUND, reads={str(read): [seen.st_size, seen.st_mtime_ns]}).to_json())
    for _ in range(2):
        checked(REQUEST, code, tmp_path / "checks", lambda _: None, payload)
    assert payload.asked == 1
    read.write_text("a,b")
    checked(REQUEST, code, tmp_path / "checks", lambda _: None, payload)
    read.unlink()
    checked(REQUEST, code, tmp_path / "checks", lambda _: None, payload)
    assert payload.asked == 3


def test_a_failure_is_the_users_to_correct_with_the_command_that_checks_again(code: Packed, tmp_path: Path) -> None:
    payload = Payload(Failed("user-code", "--model net:Net: net.py:3, in forward: KeyError: 'x'", "correct net.py:3"))
    with pytest.raises(UsageError) as caught:
        checked(REQUEST, code, tmp_path, lambda _: None, payload)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.what == "--model net:Net: net.py:3, in forward: KeyError: 'x'"
    assert caught.value.fix == "correct net.py:3    then: gpuplan plan, with the same options, checks it again"
    assert not list(tmp_path.glob("*.json"))


def test_a_process_that_just_ends_is_said_to_have_ended(code: Packed, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ended early: Segmentation fault"):
        checked(REQUEST, code, tmp_path, lambda _: None, Payload(Failed(None, "Segmentation fault")))


def test_a_process_that_ends_well_and_leaves_no_answer_has_failed() -> None:
    # A module that does nothing when it is run, as a process does that a user's code ended.
    assert PayloadProcess().ask("gpuplan_job.atomic", REQUEST, None) == Failed(
        None, "the code ended its process with status 0, before there was an answer"
    )


def test_without_pytorch_there_is_no_check_and_the_reason_is_known(code: Packed, tmp_path: Path) -> None:
    payload = Payload(FOUND.to_json(), torch=None)
    found = checked(REQUEST, code, tmp_path, lambda _: None, payload)
    assert isinstance(found, Unknown)
    assert "PyTorch is not installed here; pip install" in found.unknown
    assert payload.asked == 0
