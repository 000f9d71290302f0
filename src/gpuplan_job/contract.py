"""The one door between client and job: the files a job reads and writes, as stdlib dataclasses <-> JSON.

Both packages import this module. It must stay standard library only, and every reader must refuse what does not fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

INPUT_FILE = "input.json"
CLAIM_FILE = "claim"
"""Locked (flock) by the launcher for as long as the job lives; holds its process id."""
EXIT_FILE = "exit.json"
"""Written last of all, by the launcher: `{"code": n}`. With it the job is over."""
LR_RESULT_FILE = "lr_result.json"
TRAIN_RESULT_FILE = "train_result.json"
FAILURE_FILE = "failure.json"

PROGRESS_PREFIX = "gpuplan.progress "
"""A log line that starts so carries one `Progress`; every backend that streams logs streams progress."""
JOB_DIR_VARIABLE = "GPUPLAN_JOB_DIR"
"""Environment variable with the job's output folder, inherited by every process of the job: how its tree is found."""

Precision = Literal["fp32", "16-mixed", "bf16-mixed"]
Device = Literal["auto", "cuda", "mps", "cpu"]
StopReason = Literal["completed", "diverged", "non-finite"]
FailureKind = Literal["usage", "data", "import", "out-of-memory", "disk", "device", "killed", "user-code", "internal"]


class ContractError(ValueError):
    """A document does not have the shape, the run or the finite numbers it must have."""


@dataclass(frozen=True)
class Document:
    """Base of every file that crosses the door; `SCHEMA` names its version."""

    SCHEMA: ClassVar[str] = ""

    def to_json(self) -> str:
        """Return canonical JSON (sorted keys, no NaN or Infinity) with the schema's name in it.

        Raises:
            ContractError: a number is not finite.
        """
        return canonical_json({"schema": self.SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document strictly: schema, exact keys, exact types, finite numbers, no duplicate keys.

        Raises:
            ContractError: whatever is wrong, with the path of the field.
        """
        try:
            raw = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
        except ContractError:
            raise
        except (ValueError, RecursionError) as error:
            raise ContractError(f"not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ContractError(f"expected a JSON object, found {type(raw).__name__}")
        found = raw.pop("schema", None)
        if found != cls.SCHEMA:
            raise ContractError(f"expected schema {cls.SCHEMA!r}, found {found!r}")
        return typing.cast("Self", _build(cls, raw, cls.__name__))


@dataclass(frozen=True)
class WorkloadSpec:
    """What to train, as the job sees it. `gpuplan.workload.schema.Workload` is the same with validation."""

    model: str
    data: str
    optimizer: Literal["sgd", "adamw"]
    momentum: float
    weight_decay: float
    schedule: Literal["onecycle", "constant"]
    label_smoothing: float
    epochs: int
    precision: Precision
    seed: int
    workers: int
    """Data-loading processes per training process."""
    image_size: int | None = None
    """Side in pixels to resize images to; None keeps the data's own size."""


@dataclass(frozen=True)
class BatchSpec:
    """Batch of one step: samples per GPU and micro-batch, processes, micro-batches per optimizer step."""

    per_gpu: int
    world_size: int
    accumulation: int

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all GPUs."""
        return self.per_gpu * self.world_size * self.accumulation


@dataclass(frozen=True)
class SweepSpec:
    """An LR range test: `runs` geometric sweeps of `iterations` optimizer steps from `lr_min` to `lr_max`."""

    runs: int
    iterations: int
    lr_min: float
    lr_max: float
    reference_steps: int
    """T: optimizer steps the whole training would take on one GPU at the sweep's own batch (same epochs).

    Rules normalise by iterations / T; the transfer policy then goes from that one GPU to all of them.
    """
    noise_micro_batches: int
    """Micro-batches at frozen weights for the gradient noise scale; 0 skips the measurement."""


@dataclass(frozen=True)
class TrainSpec:
    """What only the training step needs."""

    learning_rate: float


@dataclass(frozen=True)
class JobInput(Document):
    """All that a job is told. Exactly one of `sweep` and `train` is set, and names the task."""

    SCHEMA: ClassVar[str] = "gpuplan.job-input/1"

    run_id: str
    step: str
    attempt: int
    plan_id: str
    workload: WorkloadSpec
    batch: BatchSpec
    device: Device
    sweep: SweepSpec | None = None
    train: TrainSpec | None = None

    def __post_init__(self) -> None:
        """Refuse an input that names no task or two."""
        if (self.sweep is None) == (self.train is None):
            raise ContractError("JobInput: exactly one of sweep and train must be set")


@dataclass(frozen=True)
class Curve:
    """One sweep: `losses[i]` is the training loss of optimizer step i, taken at `learning_rates[i]`.

    Only finite losses are kept: a sweep that met NaN or Infinity ends one point before it.
    """

    learning_rates: list[float]
    losses: list[float]
    stop_reason: StopReason
    stopped_at_lr: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        if len(self.learning_rates) != len(self.losses):
            raise ContractError("Curve: learning_rates and losses differ in length")
        if any(b <= a for a, b in zip(self.learning_rates, self.learning_rates[1:], strict=False)):
            raise ContractError("Curve: learning_rates must increase")
        if any(lr <= 0 for lr in self.learning_rates):
            raise ContractError("Curve: learning_rates must be positive")


@dataclass(frozen=True)
class NoiseScale:
    """Gradient noise scale, McCandlish et al. 2018, appendix A: B_noise = trace_covariance / squared_gradient."""

    squared_gradient: float
    """|G|^2, unbiased; may come out negative from few micro-batches."""
    trace_covariance: float
    """tr(Sigma), unbiased, per sample."""
    micro_batches: int
    micro_batch_size: int

    @property
    def samples(self) -> float | None:
        """B_noise in samples, or None where the measurement carries no signal."""
        if self.squared_gradient <= 0 or self.trace_covariance < 0:
            return None
        ratio = self.trace_covariance / self.squared_gradient
        return ratio if math.isfinite(ratio) else None


@dataclass(frozen=True)
class Measured:
    """What the job saw on its own device."""

    step_seconds: float
    """Median wall time of an optimizer step, after warm-up."""
    samples_per_second: float
    """Over all processes."""
    peak_gib: float | None
    """Peak memory the device's allocator reserved in GiB; on CPU the process's peak RSS. None: not measurable."""
    device: str


@dataclass(frozen=True)
class LrResult(Document):
    """What an LR range test found; the suggestion is made from it, not in it."""

    SCHEMA: ClassVar[str] = "gpuplan.lr-result/1"

    run_id: str
    step: str
    attempt: int
    input_sha256: str
    sweep: SweepSpec
    batch: BatchSpec
    optimizer: str
    precision: Precision
    curves: list[Curve]
    noise_scale: NoiseScale | None
    measured: Measured
    versions: dict[str, str]


@dataclass(frozen=True)
class EpochMetrics:
    """Exact figures of one epoch: every sample counted once, over all ranks."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    """Of the epoch's last optimizer step."""
    seconds: float


@dataclass(frozen=True)
class TrainResult(Document):
    """What a training reached. File paths are relative to the job's output folder."""

    SCHEMA: ClassVar[str] = "gpuplan.train-result/1"

    run_id: str
    step: str
    attempt: int
    input_sha256: str
    world_size: int
    learning_rate: float
    epochs: list[EpochMetrics]
    best_epoch: int
    """The epoch of highest validation accuracy, counted from 1; of equals the earlier."""
    best_checkpoint: str
    last_checkpoint: str
    optimizer_steps: int
    measured: Measured
    versions: dict[str, str]

    @property
    def best(self) -> EpochMetrics:
        """The figures of the best epoch."""
        return self.epochs[self.best_epoch - 1]

    def __post_init__(self) -> None:
        """Refuse a result whose best epoch is not among its epochs."""
        if [metrics.epoch for metrics in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ContractError("TrainResult: epochs are not 1, 2, 3, ...")
        if not 1 <= self.best_epoch <= len(self.epochs):
            raise ContractError(f"TrainResult: there is no epoch {self.best_epoch}")


@dataclass(frozen=True)
class Progress(Document):
    """Where a job stands, printed now and then as a log line."""

    SCHEMA: ClassVar[str] = "gpuplan.progress/1"

    step: str
    phase: str
    """For people: `sweep 2 of 3`, `epoch 4 of 6`."""
    done: int
    """Optimizer steps done, over all phases."""
    total: int
    values: dict[str, float]
    """For people, in this order of keys: loss, learning_rate, samples_per_second, val_loss, val_accuracy."""

    def to_line(self) -> str:
        """Return the log line that `from_line` reads."""
        return PROGRESS_PREFIX + self.to_json()

    @classmethod
    def from_line(cls, line: str) -> Progress | None:
        """Return the progress in a log line, None if the line is anything else or is damaged."""
        if not line.startswith(PROGRESS_PREFIX):
            return None
        try:
            return cls.from_json(line.removeprefix(PROGRESS_PREFIX))
        except ContractError:
            return None


@dataclass(frozen=True)
class Failure(Document):
    """Why a job failed, in words for its user, with the trace for whoever debugs it."""

    SCHEMA: ClassVar[str] = "gpuplan.failure/1"

    run_id: str
    step: str
    attempt: int
    kind: FailureKind
    message: str
    fix: str
    rank: int | None = None
    trace: str = ""


@dataclass(frozen=True)
class Suggestion:
    """An LR worth using, on one GPU at the sweep's batch."""

    learning_rate: float
    rule: str
    band: tuple[float, float]
    """Lowest and highest pick of the single runs."""
    divergence_lr: float | None
    """Smallest LR at which a sweep blew up; None: none did."""
    verdict: Literal["ok"] = "ok"


@dataclass(frozen=True)
class NoSuggestion:
    """Why no LR can be suggested from a range test, and what to do."""

    verdict: Literal["flat", "diverged", "noisy"]
    reason: str
    fix: str
    divergence_lr: float | None = None


@dataclass(frozen=True)
class DataDescription:
    """What a plan needs to know of a data set, without reading it."""

    train_samples: int
    val_samples: int
    channels: int
    height: int
    width: int
    classes: int
    bytes_per_sample: float
    """Stored bytes to read per training sample."""
    storage: Literal["tensors", "jpeg"] = "tensors"
    """Whether each sample has to be decoded and augmented, or is at hand as numbers."""
    plan_only: bool = False
    """A description without a location: enough for a plan, not for a launch."""
    source: str = ""
    """Where the figures, or the data, come from."""


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN; what digests are taken of."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ContractError(f"not JSON: {error}") from error


def sha256_hex(text: str | bytes) -> str:
    """Return the hex sha256 of a text (UTF-8) or bytes."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def _refuse_constant(name: str) -> object:
    raise ContractError(f"{name} is not a number a result may hold")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ContractError("a key stands twice in one object")
    return result


def _build(kind: type, raw: dict[str, Any], path: str) -> object:
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(raw) - set(fields))
    if unknown:
        raise ContractError(f"{path}: unknown key {unknown[0]!r}")
    values: dict[str, object] = {}
    for name, spec in fields.items():
        if name in raw:
            values[name] = _coerce(hints[name], raw[name], f"{path}.{name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ContractError(f"{path}: key {name!r} is missing")
    return kind(**values)


def _finite(raw: float, path: str) -> float:
    try:
        value = float(raw)
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise ContractError(f"{path}: not a finite number")
    return value


def _coerce(hint: Any, raw: object, path: str) -> object:  # noqa: ANN401 - a type hint has no narrower type
    """Check `raw` against a type hint made of the few forms this module uses."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if raw is None else _coerce(next(a for a in args if a is not type(None)), raw, path)
    if origin is Literal:
        if raw not in args:
            raise ContractError(f"{path}: {raw!r} is not one of {', '.join(map(repr, args))}")
        return raw
    if dataclasses.is_dataclass(hint) and isinstance(raw, dict):
        return _build(typing.cast("type", hint), raw, path)
    if origin is list and isinstance(raw, list):
        return [_coerce(args[0], item, f"{path}[{i}]") for i, item in enumerate(raw)]
    if origin is dict and isinstance(raw, dict):
        return {key: _coerce(args[1], item, f"{path}.{key}") for key, item in raw.items()}
    if hint is float and isinstance(raw, int | float) and not isinstance(raw, bool):
        return _finite(raw, path)
    if hint in (int, str) and type(raw) is hint:
        return raw
    wanted = getattr(hint, "__name__", str(hint))
    raise ContractError(f"{path}: expected {wanted}, found {type(raw).__name__}")
