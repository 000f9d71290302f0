"""A backend that runs nothing: scripted states and results, for rehearsals and for tests of whoever builds on gpuplan.

It keeps its jobs in files, so a client that is killed finds them again and a test can count them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gpuplan.backends.base import JobHandle, JobSpec, JobStatus, LogPage, Request
from gpuplan.core.errors import GpuplanError
from gpuplan.core.job_state import JobState
from gpuplan_job import batch_search, contract, document
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gpuplan.workload.schema import Aws

_SCHEME = "fake://"
_INITIAL_LOSS = 2.3
_FALL, _FALL_AT = 1.6, 0.05
_BLOW_UP_AT = 1.0
_CAPACITY_GIB, _FIXED_GIB, _GIB_PER_SAMPLE = 1.0, 0.25, 0.02


def create(home: Path, aws: Aws) -> FakeBackend:
    """Return the backend with its default script, keeping jobs under `home`."""
    del aws
    return FakeBackend(home / "fake")


def synthetic_results(job: contract.JobInput) -> dict[str, bytes]:
    """Return the files a healthy job of that input would write: a clean curve, or a training that learns."""
    if job.batch_search is not None:
        return {contract.BATCH_RESULT_FILE: _batch_result(job, job.batch_search).to_json().encode()}
    if job.sweep is not None:
        return {contract.LR_RESULT_FILE: _lr_result(job, job.sweep).to_json().encode()}
    return {contract.TRAIN_RESULT_FILE: _train_result(job).to_json().encode()}


@dataclass(frozen=True)
class Script:
    """What every job of a fake backend does: one state a poll, the last one for ever, and the files it leaves."""

    states: tuple[JobState, ...] = (JobState.PENDING, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED)
    results: Callable[[contract.JobInput], dict[str, bytes]] = synthetic_results
    log: tuple[str, ...] = ("fake job",)


@dataclass(frozen=True)
class _Job:
    request: dict[str, Any]
    polls: int = 0
    stopped: bool = False


class FakeBackend:
    """Plays jobs from a script."""

    poll_seconds = 0.01
    visibility_seconds = 0.0

    def __init__(self, root: Path, script: Script | None = None) -> None:
        self._root = root
        self._script = script or Script()

    def render(self, spec: JobSpec) -> Request:
        """Return the job's input under its name."""
        body = {"instance_type": spec.instance_type, "input": json.loads(spec.job_input.to_json())}
        return Request(spec.name, _SCHEME + spec.name, body, ("input", "train", "learning_rate"))

    def submit(self, request: Request) -> JobHandle:
        """Create the job once; the same name again is the same job."""
        self._root.mkdir(parents=True, exist_ok=True)
        if not self._path(request.name).exists():
            self._write(request.name, _Job(request.body))
        elif self._read(request.name).request != request.body:
            raise GpuplanError(f"{request.name} already exists with a different request")
        return request.handle

    def poll(self, handle: JobHandle) -> JobStatus:
        """Return the script's next state."""
        name = handle.removeprefix(_SCHEME)
        if not self._path(name).exists():
            return JobStatus(JobState.PENDING, "not created", exists=False)
        job = self._read(name)
        self._write(name, replace(job, polls=job.polls + 1))
        return self._state(job)

    def poll_all(self, handles: Sequence[JobHandle]) -> dict[JobHandle, JobStatus]:
        """Return the state of each job."""
        return {handle: self.poll(handle) for handle in handles}

    def fetch(self, handle: JobHandle, name: str) -> bytes:
        """Return a file of the script's results."""
        job = contract.JobInput.from_json(json.dumps(self._read(handle.removeprefix(_SCHEME)).request["input"]))
        files = self._script.results(job)
        if name not in files:
            raise FileNotFoundError(name)
        return files[name]

    def logs(self, handle: JobHandle, cursor: str = "") -> LogPage:
        """Return the script's log, once."""
        del handle
        return LogPage(() if cursor else self._script.log, "end")

    def stop(self, handle: JobHandle) -> JobStatus:
        """Mark the job as stopped."""
        name = handle.removeprefix(_SCHEME)
        if not self._path(name).exists():
            return JobStatus(JobState.STOPPED, "never created")
        job = self._read(name)
        if not self._state(job).state.terminal:
            job = replace(job, stopped=True)
            self._write(name, job)
        return self._state(job)

    def locate(self, handle: JobHandle, name: str) -> str:
        """Return a URL that names the file."""
        return f"{handle}/{name}"

    def created(self) -> list[str]:
        """Return the names of all jobs that were ever created: what a crash test counts."""
        return [path.stem for path in sorted(self._root.glob("*.json"))]

    def _state(self, job: _Job) -> JobStatus:
        if job.stopped:
            return JobStatus(JobState.STOPPED, "stopped")
        return JobStatus(self._script.states[min(job.polls, len(self._script.states) - 1)])

    def _path(self, name: str) -> Path:
        return self._root / f"{name}.json"

    def _read(self, name: str) -> _Job:
        return _Job(**json.loads(self._path(name).read_text(encoding="utf-8")))

    def _write(self, name: str, job: _Job) -> None:
        partial = self._path(name).with_suffix(".partial")
        partial.write_text(json.dumps(asdict(job)), encoding="utf-8")
        partial.replace(self._path(name))


def _loss(learning_rate: float) -> float:
    """Return a range-test loss: flat, falling by `_FALL` around `_FALL_AT`, blowing up past `_BLOW_UP_AT`."""
    fall = _FALL / (1 + math.pow(_FALL_AT / learning_rate, 1.5))
    return _INITIAL_LOSS - fall + math.pow(learning_rate / _BLOW_UP_AT, 3)


def _sweeps(job: contract.JobInput, sweep: contract.SweepSpec, at: contract.SweepAt) -> list[contract.Curve]:
    span = math.log(sweep.lr_max / sweep.lr_min)
    rates = [sweep.lr_min * math.exp(span * i / (at.iterations - 1)) for i in range(at.iterations)]
    kept = [rate for rate in rates if _loss(rate) < 4 * _INITIAL_LOSS]
    diverged = len(kept) < len(rates)
    stopped_at = rates[len(kept)] if diverged else rates[-1]
    curve = contract.Curve(
        learning_rates=kept,
        losses=[_loss(rate) for rate in kept],
        stop_reason="diverged" if diverged else "completed",
        stopped_at_lr=stopped_at,
        seed=job.workload.seed,
    )
    return [replace(curve, seed=job.workload.seed + run) for run in range(at.runs)]


def _lr_result(job: contract.JobInput, sweep: contract.SweepSpec) -> contract.LrResult:
    result = contract.LrResult(
        run_id=job.run_id,
        step=job.step,
        attempt=job.attempt,
        input_sha256=document.sha256_hex(job.to_json()),
        workload=job.workload,
        sweep=sweep,
        batch=job.batch,
        precision=job.workload.precision,
        curves=_sweeps(job, sweep, sweep.own(job.batch)),
        noise_scale=contract.NoiseScale(1.0, 64.0, sweep.noise_micro_batches, job.batch.per_gpu),
        check=contract.BatchSweeps(sweep.check, _sweeps(job, sweep, sweep.check)) if sweep.check else None,
        compared=[contract.BatchSweeps(at, _sweeps(job, sweep, at)) for at in sweep.compare],
        decision=contract.UNDECIDED,
        measured=contract.Measured(0.1, job.batch.global_batch / 0.1, 1.0, "fake"),
        versions={"fake": "1"},
    )
    return replace(result, decision=decide(result))


def _batch_result(job: contract.JobInput, spec: contract.BatchSearchSpec) -> contract.BatchResult:
    capacity = spec.memory_gib or _CAPACITY_GIB

    def trial(batch: int) -> contract.BatchTrial:
        peak = _FIXED_GIB + _GIB_PER_SAMPLE * batch
        if peak > capacity:
            return contract.BatchTrial(batch, "out-of-memory")
        return contract.BatchTrial(batch, "ran", peak, 0.001 * batch, 1000.0)

    search = batch_search.Search(spec, job.batch.per_gpu, capacity)
    choice = batch_search.run(search, trial)
    if choice is None:
        raise GpuplanError(f"a fake device of {capacity} GiB holds no batch")
    chosen = next(tried for tried in search.trials if tried.batch == choice.chosen)
    return contract.BatchResult(
        run_id=job.run_id,
        step=job.step,
        attempt=job.attempt,
        input_sha256=document.sha256_hex(job.to_json()),
        workload=job.workload,
        search=spec,
        batch=job.batch,
        precision=job.workload.precision,
        capacity_gib=capacity,
        reserved_gib=0.0,
        trials=search.trials,
        chosen=choice.chosen,
        largest=choice.largest,
        fastest=choice.fastest,
        measured=contract.Measured(0.001 * choice.chosen, 1000.0, chosen.peak_gib, "fake"),
        versions={"fake": "1"},
    )


def _train_result(job: contract.JobInput) -> contract.TrainResult:
    learning_rate = job.train.learning_rate if job.train else 0.0
    epochs = [
        contract.EpochMetrics(
            epoch=epoch,
            train_loss=_INITIAL_LOSS / epoch,
            val_loss=_INITIAL_LOSS / epoch,
            val_accuracy=1 - 0.5 / epoch,
            learning_rate=learning_rate,
            seconds=1.0,
        )
        for epoch in range(1, job.workload.epochs + 1)
    ]
    return contract.TrainResult(
        run_id=job.run_id,
        step=job.step,
        attempt=job.attempt,
        input_sha256=document.sha256_hex(job.to_json()),
        world_size=job.batch.world_size,
        learning_rate=learning_rate,
        epochs=epochs,
        best_epoch=len(epochs),
        best_checkpoint="checkpoints/best.ckpt",
        last_checkpoint="checkpoints/last.ckpt",
        optimizer_steps=len(epochs),
        measured=contract.Measured(0.1, job.batch.global_batch / 0.1, 1.0, "fake"),
        versions={"fake": "1"},
    )
