"""Unpacks the archive that it runs from and goes on as the job's entry point; it becomes the archive's `__main__.py`.

Run by a container's own `python3`, even one that is too old, which it says. Standard library only, and nothing of its
own package: it runs before the package lies on disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_POINT = "gpuplan_job.sagemaker"
FOLDER_VARIABLE = "GPUPLAN_CODE_DIR"
"""Where to unpack; by default on the job's volume, because /tmp may be a small one."""
_ROOT = "/opt/ml"
_OLDEST = (3, 11)


def main(archive: Path, arguments: Sequence[str], python: tuple[int, ...] = sys.version_info[:2]) -> NoReturn:
    """Replace this process by the entry point, with the archive's content on its path; `arguments` are handed on."""
    root = Path(arguments[0] if arguments else _ROOT)
    if python < _OLDEST:
        _refuse(root / "output" / "failure", python)
    # Unpacked, because the job's processes are started anew by torchrun, and data sets open their files by path.
    folder = _new_folder(Path(os.environ.get(FOLDER_VARIABLE) or root / "output" / "gpuplan-code"))
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A file named torch.py in the image's working folder must not be taken for the real one.
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
    os.execve(sys.executable, [sys.executable, "-m", ENTRY_POINT, *arguments], settings)  # noqa: S606 - no shell wanted


def _new_folder(parent: Path) -> Path:
    try:
        parent.mkdir(exist_ok=True)  # without its parents: outside SageMaker there is no /opt/ml, and none is made
        return Path(tempfile.mkdtemp(dir=parent))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="gpuplan-code-"))


def _refuse(failure: Path, python: tuple[int, ...]) -> NoReturn:
    found, oldest = (".".join(map(str, version[:2])) for version in (python, _OLDEST))
    reason = f"the image's python3 is {found}, a job needs {oldest} or later. Give another image with --image."
    with suppress(OSError):
        failure.write_text(reason, encoding="utf-8")  # what SageMaker shows as the reason of the failure
    sys.exit(f"gpuplan: {reason}")


if __name__ == "__main__":
    main(Path(__file__).parent, sys.argv[1:])
