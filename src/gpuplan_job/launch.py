"""Starts a job and sees it to its end: `python -m gpuplan_job.launch INPUT OUTPUT_DIR`, on every backend alike.

It claims the folder, starts one process or torchrun, passes a stop on, kills what is left, and always writes exit.json
last. Standard library only: it also reports that torch is missing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import claim, process_tree, scratch
from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import (
    EXIT_FILE,
    FAILURE_FILE,
    JOB_DIR_VARIABLE,
    LR_RESULT_FILE,
    TRAIN_RESULT_FILE,
    JobInput,
)
from gpuplan_job.document import canonical_json
from gpuplan_job.failures import INSTALL_FIX, JobError, write_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL; SageMaker leaves 120 s, spot capacity about as much, a container engine often 10."""
CODE_FAILED = 1
CODE_USAGE = 2
CODE_ATTEMPT_DIED = 75
CODE_STOPPED = 128 + signal.SIGTERM
_POLL_SECONDS = 0.1
_RESERVE = ".reserve"
_RESERVE_BYTES = 1 << 16
"""Room kept free until the end, so that a full disk can still be reported."""
_LEAST_FREE_BYTES = 1 << 20
_ANOTHER_JOBS = re.compile(
    r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_.*|ROLE_.*|MASTER_.*|TORCHELASTIC_.*|PET_.*)$"
)
"""Variables of a torchrun that this launcher itself may run under: they would be taken for our own."""
_SEE_LOG = "read the end of this job's log (gpuplan logs RUN), and raise the memory or lower the batch if it ran out"


class _Stop:
    """Remembers that a signal asked this launcher to stop; the loop that waits for the child acts on it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number


def main(arguments: Sequence[str]) -> int:
    """Run the job described by the file `arguments[0]` in the folder `arguments[1]`; return the exit code."""
    if len(arguments) != 2:  # noqa: PLR2004 - the two in the usage line
        _say("usage: python -m gpuplan_job.launch INPUT OUTPUT_DIR")
        return CODE_USAGE
    source, folder = (Path(argument).absolute() for argument in arguments)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with claim.held(folder):
            return _run_to_exit_file(source, folder)
    except claim.AlreadyRunningError:
        _say("another launcher runs this attempt")
        return 0
    except claim.AlreadyDoneError:
        _say("already done")
        return 0
    except claim.AttemptDiedError:
        _say("an earlier launcher of this attempt died; an attempt is started once, start a new one")
        return CODE_ATTEMPT_DIED


def environment(base: Mapping[str, str], folder: Path, world_size: int, cpus: int) -> dict[str, str]:
    """Return the environment of a job's processes, from the launcher's own."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    package_parent = str(Path(__file__).resolve().parents[1])
    path = [base["PYTHONPATH"]] if base.get("PYTHONPATH") else []
    # site-packages is found anyway, and ahead of the standard library it might hide a part of it.
    if package_parent not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        path.insert(0, package_parent)
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cpus // world_size)),
        # Threads that wait asleep: spinning, they starve each other as soon as anything else wants a core.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
    fixed = {
        JOB_DIR_VARIABLE: str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        # The folder a job happens to start in must not hide gpuplan_job or torch.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    inherited = {name: value for name, value in base.items() if not _ANOTHER_JOBS.match(name)}
    return {**defaults, **inherited, **fixed}


def command(job_input: JobInput, source: Path, folder: Path) -> list[str]:
    """Return the command of a job's child: the task itself, or this Python's torchrun over loopback."""
    task = "gpuplan_job.train" if job_input.train else "gpuplan_job.lr_find"
    world_size = job_input.batch.world_size
    torchrun = [
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={world_size}",
        "-m",
    ]
    return [sys.executable, "-m", *(torchrun if world_size > 1 else []), task, str(source), str(folder)]


def _run_to_exit_file(source: Path, folder: Path) -> int:
    code = CODE_FAILED
    job_input: JobInput | None = None
    stop = _Stop()
    try:
        job_input = JobInput.from_json(source.read_bytes())
        (folder / _RESERVE).write_bytes(bytes(_RESERVE_BYTES))
        code = _run(job_input, source, folder, stop)
    except Exception as error:  # noqa: BLE001 - whatever happens, the client must find out
        _say(f"failed: {error}")
        _fail(folder, job_input, error)
    finally:
        (folder / _RESERVE).unlink(missing_ok=True)
        write_atomic(folder / EXIT_FILE, canonical_json({"code": code}))
    return code


def _run(job_input: JobInput, source: Path, folder: Path, stop: _Stop) -> int:
    needed = ["torch", "torchvision", *(["pytorch_lightning"] if job_input.train else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise JobError("import", f"{', '.join(missing)} not installed for {sys.executable}", INSTALL_FIX)
    process_tree.adopt_orphans()
    child_environment = environment(os.environ, folder, job_input.batch.world_size, _cpus())
    arguments = command(job_input, source, folder)
    with scratch.folder(folder) as temporary:
        child_environment["TMPDIR"] = str(temporary)
        try:
            # A group of its own: Ctrl-C at a terminal reaches the launcher alone, which then stops the child in order.
            child = subprocess.Popen(  # noqa: S603 - our own modules
                arguments,
                env=child_environment,
                process_group=0,
                # torchrun must die with this launcher, and its ranks with it. This process has one thread.
                preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509
            )
            returned = _wait(child, stop)
        finally:
            process_tree.end_below_self()
    if stop.signal is not None:
        name = signal.Signals(stop.signal).name
        error = JobError("killed", f"the job was stopped by {name}", "start it again, or resume the run")
        _fail(folder, job_input, error)
        return CODE_STOPPED
    result = folder / (TRAIN_RESULT_FILE if job_input.train else LR_RESULT_FILE)
    if returned == 0 and result.exists():
        return 0
    if not (folder / FAILURE_FILE).exists():
        _fail(folder, job_input, _unexplained(returned, folder))
    return CODE_FAILED


def _fail(folder: Path, job_input: JobInput | None, error: Exception) -> None:
    (folder / _RESERVE).unlink(missing_ok=True)
    with suppress(OSError):  # the exit code remains
        write_failure(folder, job_input, error, rank=None)


def _wait(child: subprocess.Popen[bytes], stop: _Stop) -> int:
    """Return the child's exit code; once asked to stop, end its whole tree within the grace."""
    deadline: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=_POLL_SECONDS)
        if stop.signal is None:
            continue
        if deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        elif time.monotonic() >= deadline:
            process_tree.kill(process_tree.descendants(os.getpid()))


def _unexplained(returned: int, folder: Path) -> JobError:
    if shutil.disk_usage(folder).free < _LEAST_FREE_BYTES:
        return JobError("disk", "no space is left on the disk of the job's folder", "free space, or use another volume")
    if returned < 0:
        name = signal.Signals(-returned).name
        return JobError(
            "killed", f"the job's process was ended by {name}; SIGKILL often means no memory left", _SEE_LOG
        )
    if returned == 0:
        return JobError("internal", "the job ended without an error and without a result", _SEE_LOG)
    return JobError("killed", f"a process of the job ended (code {returned}) without saying why", _SEE_LOG)


def _cpus() -> int:
    # Where it exists the affinity mask is what the process may really use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(text: str) -> None:
    sys.stderr.write(f"gpuplan_job.launch: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
