"""The batch search as a job: `python -m gpuplan_job.find_batch INPUT OUTPUT_DIR` on one device.

Started by the launcher. It trains for a few steps at each batch, chooses, and writes `batch_result.json`; whoever reads
it chooses again from the tries. On a CPU each try is a process of its own (a third argument names its batch), so that
one that the kernel ends for want of memory takes no other with it. It must not write checkpoints.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import batch_search, machine_probe, process_tree, runtime
from gpuplan_job.atomic import write_atomic
from gpuplan_job.batch_training import OnDevice, Tried
from gpuplan_job.contract import (
    BATCH_RESULT_FILE,
    FAILURE_FILE,
    BatchResult,
    BatchSearchSpec,
    BatchTrial,
    JobInput,
    Measured,
    Progress,
)
from gpuplan_job.data_check import DataCheck
from gpuplan_job.device_memory import DeviceMemory
from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError, report
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable


_PATIENCE_SECONDS = 300.0
"""What a try's process may take beside its steps: starting, loading its samples."""
_OF_A_JOB = 2
"""Arguments of a whole search; a third is the batch of a single try."""
_SMALLER = "a smaller --image-size or --model, --precision bf16-mixed, or a GPU with more memory"


def main(arguments: list[str]) -> int:
    """Run the job that a file describes, or the one try of it that a third argument names; return the exit code."""
    source, folder = Path(arguments[0]), Path(arguments[1])
    job_input: JobInput | None = None
    try:
        text = source.read_bytes()
        job_input = JobInput.from_json(text)
        spec = _checked(job_input)
        if len(arguments) == _OF_A_JOB:
            # How much memory is needed is what the search finds out.
            machine_probe.check(replace(job_input, expected=None), folder, Process.from_environment({}))
        device = runtime.device(job_input.device, 0)
        memory = DeviceMemory(device, spec.memory_gib, spec.world_size)
        if len(arguments) > _OF_A_JOB:
            tried = OnDevice(job_input, spec, memory, folder).tried(int(arguments[2]))
            answer = _answer(folder, tried.trial.batch)
            answer.parent.mkdir(exist_ok=True)
            write_atomic(answer, tried.to_json())
            return 0
        if device.type == "cpu":
            attempt, check = _InChildren(source, folder, spec).tried, DataCheck()
        else:
            here = OnDevice(job_input, spec, memory, folder)
            attempt, check = here.tried, here.subject.data_check(job_input, folder, of_all=False)
        try:
            result = search(job_input, sha256_hex(text), memory, attempt, _print_progress)
        finally:
            check.stop()
        write_atomic(folder / BATCH_RESULT_FILE, result.to_json())
    except _ToldError:
        return 1
    except Exception as error:  # noqa: BLE001 - whatever went wrong is recorded for the client
        report(folder, job_input, error, rank=0)
        return 1
    return 0


def search(
    job_input: JobInput,
    input_sha256: str,
    memory: DeviceMemory,
    tried: Callable[[int], Tried],
    on_progress: Callable[[Progress], None],
) -> BatchResult:
    """Try batches until it is known which is the largest safe one, and return it with all tries.

    Raises:
        JobError: the input is for no search, or not even the smallest batch is safe.
    """
    spec = _checked(job_input)
    answers: list[Tried] = []

    def trial(batch: int) -> BatchTrial:
        done = len(answers)
        on_progress(Progress(job_input.step, _phase(batch, answers), done, done + 1, {}))
        answers.append(tried(batch))
        return answers[-1].trial

    steps = batch_search.Search(spec, job_input.batch.per_gpu, memory.capacity_gib)
    choice = batch_search.run(steps, trial)
    last = answers[-1]
    on_progress(Progress(job_input.step, _phase(None, answers), len(answers), len(answers), {}))
    if choice is None and last.trial.outcome == "too-slow":
        steps_tried = batch_search.WARM_UP_STEPS + batch_search.LEAST_TIMED_STEPS
        raise JobError(
            "usage",
            f"{steps_tried} steps of {last.trial.batch} sample a GPU take longer than {spec.trial_seconds:.3g} s",
            "give a try longer: --trial-seconds",
        )
    if choice is None:
        raise JobError(
            "out-of-memory",
            f"not even {last.trial.batch} sample a GPU leaves {1 - spec.memory_share:.0%} of "
            f"{memory.capacity_gib:.3g} GiB free",
            f"use {_SMALLER}",
        )
    chosen = next(answer.trial for answer in answers if answer.trial.batch == choice.chosen)
    return BatchResult(
        run_id=job_input.run_id,
        step=job_input.step,
        attempt=job_input.attempt,
        input_sha256=input_sha256,
        workload=job_input.workload,
        search=spec,
        batch=job_input.batch,
        precision=runtime.effective_precision(job_input.workload.precision, memory.device),
        capacity_gib=memory.capacity_gib,
        reserved_gib=last.reserved_gib,
        trials=steps.trials,
        chosen=choice.chosen,
        largest=choice.largest,
        fastest=choice.fastest,
        measured=Measured(
            step_seconds=chosen.step_seconds or 0.0,
            samples_per_second=chosen.samples_per_second or 0.0,
            peak_gib=chosen.peak_gib,
            device=runtime.device_name(memory.device),
        ),
        versions=runtime.versions(),
    )


class _InChildren:
    """Tries each batch in a process of its own, under the limit of its memory."""

    def __init__(self, source: Path, folder: Path, spec: BatchSearchSpec) -> None:
        self.source, self.folder, self.spec = source, folder, spec
        self.reserved_gib = 0.0

    def tried(self, batch: int) -> Tried:
        """Try a batch; a process that ends without an answer ran out of memory, or out of time."""
        answer = _answer(self.folder, batch)
        command = [sys.executable, "-m", "gpuplan_job.find_batch", str(self.source), str(self.folder), str(batch)]
        try:
            # Steps of about the time that is allowed, each way: a first one, and what the clock cannot foresee.
            ended = subprocess.run(command, check=False, timeout=_PATIENCE_SECONDS + 2 * self.spec.trial_seconds)  # noqa: S603 - our own module
        except subprocess.TimeoutExpired:
            return Tried(BatchTrial(batch, "too-slow"), self.reserved_gib)
        if answer.exists():
            found = Tried.from_json(answer.read_bytes())
            self.reserved_gib = found.reserved_gib
            return found
        if (self.folder / FAILURE_FILE).exists():
            raise _ToldError
        if ended.returncode == 0:
            raise JobError("internal", f"the try of batch {batch} left no answer", "report it: it should not happen")
        # Killed for want of memory, or ended by a library that can do nothing without.
        return Tried(BatchTrial(batch, "out-of-memory"), self.reserved_gib)


class _ToldError(Exception):
    """A try's process has written down already why it failed."""


def _answer(folder: Path, batch: int) -> Path:
    return folder / "tries" / f"{batch}.json"


def _phase(batch: int | None, answers: list[Tried]) -> str:
    told = ""
    if answers:
        trial = answers[-1].trial
        peak = "" if trial.peak_gib is None else f", peak {trial.peak_gib:.3g} GiB"
        rate = "" if trial.samples_per_second is None else f", {trial.samples_per_second:.3g} samples/s"
        told = f"batch {trial.batch}: {trial.outcome.replace('-', ' ')}{peak}{rate}"
    return ("; " if told else "").join((told, f"trying {batch}" if batch else "")).removesuffix("; ")


def _checked(job_input: JobInput) -> BatchSearchSpec:
    spec = job_input.batch_search
    if spec is None or job_input.batch.world_size != 1:
        raise JobError("usage", "a batch search runs on one device", "start it from a plan with one GPU in this step")
    return spec


def _print_progress(progress: Progress) -> None:
    print(progress.to_line(), flush=True)  # noqa: T201 - the log is how progress leaves a job


if __name__ == "__main__":
    process_tree.die_with_parent()
    sys.exit(main(sys.argv[1:]))
