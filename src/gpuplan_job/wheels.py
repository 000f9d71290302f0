"""Installs what an image lacks from wheels that came with the job: offline, by digest, and into a folder of its own.

Called by `sagemaker`. Standard library only; it changes nothing of the image's own Python.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from gpuplan_job import process_tree
from gpuplan_job.failures import JobError
from gpuplan_job.supervision import wait

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpuplan_job.supervision import Stop

REQUIREMENTS = "requirements.txt"
"""Beside the wheels: each with its version and sha256."""
_SHOWN_LINES = 3
_FIX = "use an image that has them (--image), or launch again so that the wheels are uploaded anew"


def install(wheels: Path, target: Path, environment: Mapping[str, str], stop: Stop) -> None:
    """Install the wheels that `wheels/requirements.txt` names into `target`; a stop ends it early.

    Raises:
        JobError: the wheels are not there, or pip refuses them.
        OSError: the disk does.
    """
    requirements = wheels / REQUIREMENTS
    if not requirements.is_file():
        raise JobError(
            "import",
            f"the image lacks PyTorch Lightning or another package, and no {requirements} came with the job",
            _FIX,
        )
    shutil.rmtree(target, ignore_errors=True)  # an earlier start may have left half of it
    target.mkdir(parents=True)
    log = target.with_name(f"{target.name}.log")
    # Isolated: neither the image's pip configuration nor its PIP_ variables may send it to an index.
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-input", "install"]
    offline = ["--no-index", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes"]
    chosen = ["--find-links", str(wheels), "--requirement", str(requirements), "--target", str(target)]
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - this Python's own pip
            [*pip, *offline, *chosen],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            process_group=0,
            preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
        returned = wait(child, stop)
    said = log.read_text(encoding="utf-8", errors="replace")
    sys.stderr.write(said)
    if returned != 0 and stop.signal is None:
        errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
        problem = " ".join(errors[-_SHOWN_LINES:]) or f"pip ended with code {returned}"
        raise JobError("import", f"the wheels that came with the job cannot be installed: {problem}", _FIX)
