"""Jobs as processes of this machine, through the same launcher a container uses.

A job is a folder, `<home>/runs/<run>/jobs/<step>-<attempt>/`: its input, its log, its results and the claim its
launcher locks for as long as it lives. The attempts of a step share one folder of checkpoints. Nothing about a job is
kept in memory, so any client can pick it up.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.backends import _process_tree
from gpuplan.backends.base import JobHandle, JobSpec, JobStatus, LogPage, Request
from gpuplan.core.errors import GpuplanError, UsageError
from gpuplan.core.job_state import JobState
from gpuplan.own_code import shelf
from gpuplan_job import contract, document
from gpuplan_job.atomic import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.workload.schema import Aws

LOG_FILE = "log.txt"
_STOP_REQUEST = "stop-requested"
_EXTRAS = {"mlflow", "wandb"}
"""Loggers that an extra of the same name brings."""
_SCHEME = "local://"
_LAUNCH_SECONDS = 20.0
_STOP_SECONDS = 25.0  # more than the launcher's own grace before it kills
_POLL_SECONDS = 0.05


def create(home: Path, aws: Aws) -> LocalBackend:
    """Return the backend that keeps jobs under `home`."""
    del aws
    return LocalBackend(home / "runs")


class LocalBackend:
    """Runs jobs on this machine."""

    poll_seconds = 0.2
    visibility_seconds = 0.0

    def __init__(self, root: Path, python: str = sys.executable) -> None:
        self._root = root
        self._home = root.parent
        self._python = python

    def render(self, spec: JobSpec) -> Request:
        """Return the command, its folder and the job's input."""
        job = spec.job_input
        folder = self._folder(job.run_id, job.step, job.attempt)
        return Request(
            name=spec.name,
            handle=f"{_SCHEME}{job.run_id}/{job.step}/{job.attempt}",
            body={
                "argv": [self._python, "-m", "gpuplan_job.launch", str(folder / contract.INPUT_FILE), str(folder)],
                "folder": str(folder),
                "input": json.loads(job.to_json()),
                **({} if job.code is None else {"code": str(shelf.place(self._home, job.code.sha256))}),
            },
            learning_rate_at=("input", "train", "learning_rate"),
        )

    def submit(self, request: Request) -> JobHandle:
        """Start the launcher, or adopt the job that already has this folder and this very input.

        Raises:
            UsageError: torch is not installed here, or the disk refuses.
            GpuplanError: the folder belongs to a different input.
        """
        if importlib.util.find_spec("torch") is None:
            raise UsageError(
                "PyTorch is not installed in this environment, so nothing can be trained on this machine",
                why=f"backend local runs jobs with {self._python}",
                fix="pip install 'gpuplan[local]'",
            )
        _require_loggers(request.body["input"]["loggers"])
        folder = Path(request.body["folder"])
        text = document.canonical_json(request.body["input"])
        try:
            self._bring_code(folder, request)
            self._write_input(folder, text, request.name)
            _share_checkpoints(folder)
            if not _has_started(folder):
                self._launch(folder, request.body["argv"])
        except OSError as error:
            raise UsageError(
                f"cannot start {request.name}: {error.strerror or error}",
                why=f"its folder is {folder}",
                fix="free space or set GPUPLAN_HOME to a writable folder, then: gpuplan resume "
                + str(request.body["input"]["run_id"]),
            ) from error
        return request.handle

    def poll(self, handle: JobHandle) -> JobStatus:
        """Return the state the folder and the claim's lock tell."""
        folder = self._path(handle)
        # In this order: a launcher may start between two looks, and one that had started and holds nothing is dead.
        started = _has_started(folder)
        if _exit_code(folder) is None and _claim_is_held(folder):
            return JobStatus(JobState.RUNNING)
        code = _exit_code(folder)  # it may have ended between the looks
        if code is None:
            if not started:
                return JobStatus(JobState.PENDING, "not started", exists=folder.exists())
            # The launcher died without a word. Its ranks must not train on with nobody to account for them.
            _process_tree.end(folder, grace_seconds=1.0)
            return JobStatus(JobState.FAILED, "its process was killed")
        if code == 0:
            return JobStatus(JobState.SUCCEEDED)
        stopped = (folder / _STOP_REQUEST).exists()
        return JobStatus(JobState.STOPPED if stopped else JobState.FAILED, f"exit code {code}")

    def poll_all(self, handles: Sequence[JobHandle]) -> dict[JobHandle, JobStatus]:
        """Return the state of each job."""
        return {handle: self.poll(handle) for handle in handles}

    def fetch(self, handle: JobHandle, name: str) -> bytes:
        """Return a file from the job's folder."""
        return (self._path(handle) / name).read_bytes()

    def logs(self, handle: JobHandle, cursor: str = "") -> LogPage:
        """Return the complete lines after byte `cursor` of the log."""
        start = int(cursor or 0)
        try:
            with (self._path(handle) / LOG_FILE).open("rb") as file:
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            return LogPage((), cursor)
        complete = data[: data.rfind(b"\n") + 1]
        lines = complete.decode(errors="replace").splitlines()
        return LogPage(tuple(lines), str(start + len(complete)))

    def stop(self, handle: JobHandle) -> JobStatus:
        """End the launcher and every process that carries the job's folder in its environment."""
        folder = self._path(handle)
        if not folder.exists():
            _process_tree.end(folder, grace_seconds=_STOP_SECONDS)  # its folder may have been deleted under it
            return JobStatus(JobState.STOPPED, "never started")
        status = self.poll(handle)
        if status.state.terminal:
            return status
        (folder / _STOP_REQUEST).touch()
        _process_tree.end(folder, grace_seconds=_STOP_SECONDS)
        if _exit_code(folder) is None:
            # A launcher that is only now starting finds this and does not begin.
            (folder / contract.EXIT_FILE).write_text('{"code": 143}', encoding="utf-8")
        return self.poll(handle)

    def locate(self, handle: JobHandle, name: str) -> str:
        """Return the path of a file of the job."""
        return str(self._path(handle) / name)

    def _folder(self, run_id: str, step: str, attempt: int | str) -> Path:
        return self._root / run_id / "jobs" / f"{step}-{attempt}"

    def _path(self, handle: JobHandle) -> Path:
        run_id, step, attempt = handle.removeprefix(_SCHEME).split("/")
        return self._folder(run_id, step, attempt)

    def _bring_code(self, folder: Path, request: Request) -> None:
        """Put the user's code beside the input, where the launcher looks for it; before it, so that a start finds both.

        Raises:
            UsageError: it is not kept on this machine.
        """
        code = request.body["input"].get("code")
        path = folder / contract.CODE_FILE
        if code is not None and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, shelf.taken(self._home, code["sha256"]))

    @staticmethod
    def _write_input(folder: Path, text: str, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / contract.INPUT_FILE
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise GpuplanError(
                    f"{name} already exists with a different input", why=f"see {path}", fix="gpuplan list"
                )
            return
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    @staticmethod
    def _launch(folder: Path, argv: list[str]) -> None:
        # The user's folder must not shadow the standard library: a stray random.py is no reason to fail.
        environment = os.environ | {contract.JOB_DIR_VARIABLE: str(folder), "PYTHONSAFEPATH": "1"}
        with (folder / LOG_FILE).open("ab") as log:
            # Its own session: Ctrl-C in the client's terminal must not reach the job.
            process = subprocess.Popen(  # noqa: S603 - our own launcher, with a list of arguments
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + _LAUNCH_SECONDS
        while not _has_started(folder) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not _has_started(folder):
            _process_tree.end(folder, grace_seconds=0)
            raise GpuplanError(
                "the job's launcher did not start",
                why=f"exit code {process.returncode}" if process.returncode is not None else "it took no claim in time",
                fix=f"read {folder / LOG_FILE}",
            )


def _require_loggers(names: list[str]) -> None:
    """Refuse to start without a logger that was asked for: to find out after the training would be late.

    Raises:
        UsageError: one of them is not installed here.
    """
    for name in names:
        if name in _EXTRAS and importlib.util.find_spec(name) is None:
            raise UsageError(
                f"--loggers names {name}, which is not installed in this environment",
                fix=f"pip install 'gpuplan[{name}]'    or leave {name} out of --loggers",
            )


def _share_checkpoints(folder: Path) -> None:
    """Let a later attempt of a step go on from checkpoints and logs of those before it: all use the first's folders."""
    step, _, attempt = folder.name.rpartition("-")
    for name in (contract.CHECKPOINTS_FOLDER, contract.LOGS_FOLDER):
        link = folder / name
        if int(attempt) > 1 and not link.is_symlink():
            first = folder.with_name(f"{step}-1") / name
            first.mkdir(parents=True, exist_ok=True)
            link.symlink_to(first, target_is_directory=True)


def _has_started(folder: Path) -> bool:
    """Tell whether a launcher ever took the claim: it writes its process id into it."""
    try:
        return (folder / contract.CLAIM_FILE).stat().st_size > 0
    except FileNotFoundError:
        return False


def _claim_is_held(folder: Path) -> bool:
    """Tell whether a live launcher holds the claim; the kernel frees it when the launcher dies, however it dies."""
    try:
        with (folder / contract.CLAIM_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _exit_code(folder: Path) -> int | None:
    try:
        code = json.loads((folder / contract.EXIT_FILE).read_text(encoding="utf-8"))["code"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, int) else None
