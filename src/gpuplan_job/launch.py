"""Starts a job and sees it to its end: `python -m gpuplan_job.launch INPUT OUTPUT_DIR`, on every backend alike.

It claims the folder, starts one process or torchrun, passes a stop on, kills what is left, and always writes exit.json
last. Standard library only: it also reports that torch is missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import (
    claim,
    first_cause,
    heartbeat,
    oom_retry,
    process_tree,
    rank,
    scratch,
    stop_request,
    torchrun,
    user_code,
)
from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import (
    BATCH_RESULT_FILE,
    CHECKPOINTS_FOLDER,
    CODE_FILE,
    EXIT_FILE,
    FAILURE_FILE,
    LR_RESULT_FILE,
    TRAIN_RESULT_FILE,
    Failure,
    JobInput,
)
from gpuplan_job.document import canonical_json
from gpuplan_job.failures import INSTALL_FIX, RANKS_FOLDER, JobError, describe
from gpuplan_job.stall import Watchdog
from gpuplan_job.supervision import CODE_STOPPED, GRACE_SECONDS, Stop, Watch, wait
from gpuplan_job.torchrun import Nodes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CODE_FAILED = 1
CODE_USAGE = 2
CODE_ATTEMPT_DIED = 75
_RESULTS = {"train": TRAIN_RESULT_FILE, "lr_find": LR_RESULT_FILE, "find_batch": BATCH_RESULT_FILE}
_USER_CODE = "user-code"
_RESERVE = ".reserve"
_RESERVE_BYTES = 1 << 16
"""Room kept free until the end, so that a full disk can still be reported."""
_LEAST_FREE_BYTES = 1 << 20
_MAY_BE_DISK = {"crash", "killed", "communication", "internal"}
"""Kinds that a full disk looks like where it also kept the ranks from saying so."""
_SEE_LOG = "read the end of this job's log (gpuplan logs RUN), and raise the memory or lower the batch if it ran out"


def main(arguments: Sequence[str]) -> int:
    """Run the job described by the file `arguments[0]` in the folder `arguments[1]`; return the exit code."""
    if len(arguments) != 2:  # noqa: PLR2004 - the two in the usage line
        _say("usage: python -m gpuplan_job.launch INPUT OUTPUT_DIR")
        return CODE_USAGE
    source, folder = (Path(argument).absolute() for argument in arguments)
    return run(source, folder, Stop(), os.environ, Nodes())


def run(
    source: Path,
    folder: Path,
    stop: Stop,
    base: Mapping[str, str],
    nodes: Nodes,
    grace_seconds: float = GRACE_SECONDS,
) -> int:
    """Run the job described by `source` in `folder`, this machine's part of it where there are several.

    `base` is the environment that the job's processes start from; once asked to stop, they have `grace_seconds`.
    Returns the exit code, which exit.json holds too; on machines other than the first no result is expected.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with claim.held(folder):
            return _Job(source, folder, (stop, grace_seconds), base, nodes).to_exit_file()
    except claim.AlreadyRunningError:
        _say("another launcher runs this attempt")
        return 0
    except claim.AlreadyDoneError:
        _say("already done")
        return 0
    except claim.AttemptDiedError:
        _say("an earlier launcher of this attempt died; an attempt is started once, start a new one")
        return CODE_ATTEMPT_DIED


class _Job:
    """One attempt, in a folder whose claim is held."""

    def __init__(
        self, source: Path, folder: Path, stopping: tuple[Stop, float], base: Mapping[str, str], nodes: Nodes
    ) -> None:
        self.source = source
        self.folder = folder
        self.stop, self.grace_seconds = stopping
        self.base = base
        self.nodes = nodes
        self.job_input: JobInput | None = None

    def to_exit_file(self) -> int:
        """Run the job; whatever happens, the folder says how it ended. Returns the exit code."""
        code = CODE_FAILED
        try:
            job_input = self.job_input = JobInput.from_json(self.source.read_bytes())
            (self.folder / _RESERVE).write_bytes(bytes(_RESERVE_BYTES))
            code = self._run(job_input)
        except Exception as error:  # noqa: BLE001 - whatever happens, the client must find out
            code = self._fail(describe(self.job_input, error, rank=error.rank if isinstance(error, JobError) else None))
        finally:
            (self.folder / _RESERVE).unlink(missing_ok=True)
            write_atomic(self.folder / EXIT_FILE, canonical_json({"code": code}))
        return code

    def _run(self, job_input: JobInput) -> int:
        missing = [name for name in job_input.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise JobError("import", f"{', '.join(missing)} not installed for {sys.executable}", INSTALL_FIX)
        while True:
            oom_kills = first_cause.oom_kills()
            returned = self._child(job_input)
            if (stopped := self.stop.error()) is not None:
                self._fail(describe(job_input, stopped, rank=None))
                return CODE_STOPPED
            result = self.folder / _RESULTS[torchrun.task_of(job_input)]
            if returned == 0 and (result.exists() or self.nodes.rank > 0):
                return 0
            failure = self._failure(job_input, returned, oom_kills)
            if not self._goes_on(job_input, failure):
                return self._fail(failure)

    def _failure(self, job_input: JobInput, returned: int, oom_kills: int) -> Failure:
        """Return what came first; `oom_kills` is how many processes the kernel had killed before the job."""
        ranks = self.nodes.ranks_here(job_input.batch.world_size)
        stories = first_cause.stories(self.folder, ranks)
        failure = first_cause.find(job_input, stories, self.folder, first_cause.oom_kills() - oom_kills)
        if failure is None or (failure.kind in _MAY_BE_DISK and _disk_is_full(self.folder)):
            return describe(job_input, _unexplained(returned, self.folder), rank=failure.rank if failure else None)
        return failure

    def _goes_on(self, job_input: JobInput, failure: Failure) -> bool:
        """Tell whether a failed training is started once more; one of several machines could not know of the others."""
        if self.nodes.count > 1:
            return False
        retry = oom_retry.after_failure(job_input, failure, self.folder)
        if retry is None:
            return False
        _say(oom_retry.announcement(retry, job_input.batch.world_size))
        # What its ranks said is said; only a second failure counts.
        shutil.rmtree(self.folder / RANKS_FOLDER, ignore_errors=True)
        (self.folder / FAILURE_FILE).unlink(missing_ok=True)
        return True

    def _child(self, job_input: JobInput) -> int:
        """Run the processes to their end and return torchrun's, or the only one's, exit code."""
        process_tree.adopt_orphans()
        ranks_here = self.nodes.ranks_here(job_input.batch.world_size)
        settings = torchrun.environment(self.base, self.folder, len(ranks_here), _cpus(), self.nodes)
        settings.pop(user_code.FOLDER_VARIABLE, None)
        place: Path | None = None
        if job_input.code is not None:
            # The user's code finds the files that came with it by relative paths, wherever the job was started.
            place = self.folder / _USER_CODE
            user_code.unpack(self.source.with_name(CODE_FILE), job_input.code, place)
            settings[user_code.FOLDER_VARIABLE] = str(place)
        heartbeat.clear(self.folder)
        stop_request.clear(self.folder)
        watchdog = Watchdog(self.folder, ranks_here if job_input.train else (), _say)
        arguments = torchrun.command(job_input, self.source, self.folder, self.nodes)
        ranks = self.folder / RANKS_FOLDER
        with scratch.folder(self.folder) as temporary:
            settings["TMPDIR"] = str(temporary)
            try:
                # A group of its own: Ctrl-C at a terminal reaches the launcher alone, which then stops it in order.
                child = subprocess.Popen(  # noqa: S603 - our own modules
                    arguments,
                    env=settings,
                    cwd=place,
                    process_group=0,
                    # torchrun must die with this launcher, and its ranks with it. This process has one thread.
                    preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509
                )
                # Between machines torchrun's own end is awaited: it is how the others learn of it.
                over = partial(rank.all_over, ranks, len(ranks_here)) if self.nodes.count == 1 else None
                watch = Watch(over, watchdog.look, partial(stop_request.ask, self.folder))
                return wait(child, self.stop, watch, self.grace_seconds)
            finally:
                process_tree.end_below_self()
                heartbeat.clear(self.folder)

    def _fail(self, failure: Failure) -> int:
        """Write the failure, say it last of all, and return the exit code that it stands for."""
        (self.folder / _RESERVE).unlink(missing_ok=True)
        with suppress(OSError):  # the exit code remains
            write_atomic(self.folder / FAILURE_FILE, failure.to_json())
        first = "" if failure.rank is None else f"rank {failure.rank} "
        _say(f"{first}failed first, {failure.kind}: {failure.message}" if first else f"failed: {failure.message}")
        _say(f"next: {failure.fix}")
        return first_cause.exit_code(failure)


def _unexplained(returned: int, folder: Path) -> JobError:
    if _disk_is_full(folder):
        return JobError("disk", "no space is left on the disk of the job's folder", "free space, or use another volume")
    if returned < 0:
        name = signal.Signals(-returned).name
        return JobError("killed", f"the job's processes were ended by {name}", _SEE_LOG)
    if returned == 0:
        return JobError("internal", "the job ended without an error and without a result", _SEE_LOG)
    return JobError("killed", f"the job's processes ended (code {returned}) without saying why", _SEE_LOG)


def _disk_is_full(folder: Path) -> bool:
    # The checkpoints may lie on a disk of their own.
    written = [place for place in (folder, folder / CHECKPOINTS_FOLDER) if place.is_dir()]
    return any(shutil.disk_usage(place).free < _LEAST_FREE_BYTES for place in written)


def _cpus() -> int:
    # Where it exists the affinity mask is what the process may really use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(text: str) -> None:
    sys.stderr.write(f"gpuplan_job.launch: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
