"""Asks the payload something that needs torch: a document in, a document out, in a process of its own.

Called by `tracing` and `checking`. This process never imports torch, and the one that does sees no AWS credentials;
a user's code runs in the folder of its unpacked archive, as it will in a job.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import gpuplan_job
from gpuplan_job import user_code
from gpuplan_job.contract import CODE_FILE, CodeSpec
from gpuplan_job.document import sha256_hex

if TYPE_CHECKING:
    from gpuplan_job.document import Document

LONGEST_SECONDS = 900
_NEEDED = ("torch", "torchvision")
_BESIDE = ("pytorch-lightning",)
_KEPT_FROM_IT = "AWS_"
"""Variables that begin so hold credentials or lead to them; a user's model has no business with them."""


class Failed(NamedTuple):
    """Why there is no answer; `kind` is one of the contract's failure kinds, None where the process just ended."""

    kind: str | None
    message: str
    fix: str = ""


class PayloadProcess:
    """Starts the payload with this Python; tests pass another in its place."""

    def versions(self) -> list[str] | None:
        """Return the versions of what an answer depends on, None where torch is not installed. Imports none of it."""
        if any(importlib.util.find_spec(name) is None for name in _NEEDED):
            return None
        found = [metadata.version(name) for name in _NEEDED]
        for name in _BESIDE:
            try:
                found.append(metadata.version(name))
            except metadata.PackageNotFoundError:
                found.append("none")
        return found

    def ask(self, module: str, request: Document, code: bytes | None) -> str | Failed:
        """Return the text that `python -m MODULE REQUEST OUTPUT` writes, or why it wrote none.

        `code` is the archive of a user's code; without one the current folder is where such code is looked for.
        """
        with tempfile.TemporaryDirectory(prefix="gpuplan-") as name:
            folder = Path(name)
            asked, made = folder / "request.json", folder / "answer.json"
            asked.write_text(request.to_json(), encoding="utf-8")
            environment = {k: v for k, v in os.environ.items() if not k.startswith(_KEPT_FROM_IT)}
            # Neither a folder that Python happens to start in nor a GPU that other work may be using.
            paths = [str(Path(gpuplan_job.__file__).parents[1]), *environment.get("PYTHONPATH", "").split(os.pathsep)]
            environment |= {"PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": ""}
            environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths if path)  # noqa: PTH100 - text
            place = None
            if code is not None:
                place = folder / "code"
                archive = folder / CODE_FILE
                archive.write_bytes(code)
                user_code.unpack(archive, CodeSpec(sha256_hex(code), len(code)), place)
                environment[user_code.FOLDER_VARIABLE] = str(place)
            program = [sys.executable, "-m", module, str(asked), str(made)]
            try:
                done = subprocess.run(  # noqa: S603 - our own payload, with files of ours as its arguments
                    program,
                    env=environment,
                    cwd=place,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=LONGEST_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return Failed(None, f"it took more than {LONGEST_SECONDS // 60} minutes")
            if done.returncode != 0:
                return _failed(done.stderr, done.returncode)
            try:
                return made.read_text(encoding="utf-8")
            except FileNotFoundError:  # what it imports may end it, and call that a success
                return Failed(None, "the code ended its process with status 0, before there was an answer")


def _failed(stderr: str, status: int) -> Failed:
    """Return the payload's own words, or the last line of whatever it died of."""
    lines = stderr.strip().splitlines() or [f"it ended without a word, status {status}"]
    try:
        failure = json.loads(lines[-1])
        return Failed(failure["kind"], failure["message"], failure["fix"])
    except (ValueError, KeyError, TypeError):
        return Failed(None, lines[-1])


PAYLOAD_PROCESS = PayloadProcess()
