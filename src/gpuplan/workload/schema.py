"""Every setting a user can give, once: flags, GPUPLAN_* variables, gpuplan.toml and its JSON Schema come from here.

`workload.load` merges the layers and validates them against `Settings`; the command line builds its options from it.
It must not hold a value that depends on an instance: those come from the profile's defaults.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from gpuplan.core.frozen import Frozen
from gpuplan_job.contract import BatchSchedule, Device, Optimizer, Precision, Schedule
from gpuplan_job.sweep_design import RULE, RUNS

MOST_ACCUMULATION = 16
"""Micro-batches per optimizer step: beyond it a step waits long and BatchNorm sees ever smaller a share."""
NO_REGION = "none"
"""What `region` holds where no AWS region applies."""


@dataclass(frozen=True)
class Flag:
    """The command-line option of a field, where it is not `--field-name`, and its variable, where not the flag's."""

    name: str
    variable: str = ""


def _decimal(value: object) -> object:
    """Let TOML and flags write 12.5 for a Decimal, through its shortest decimal text, never its binary expansion."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError("must be an amount in dollars, such as 12.50") from error


Usd = Annotated[Decimal, BeforeValidator(_decimal)]


def _whole_numbers(value: object) -> object:
    """Let flags and variables write 32,64,128 for what is a list in TOML; a number that stands twice counts once."""
    if isinstance(value, str):
        try:
            value = [int(part) for part in value.split(",") if part.strip()]
        except ValueError as error:
            raise ValueError("must be whole numbers with commas between them, such as 32,64,128") from error
    # By repr: 1, 1.0 and true are equal, and two of them are refused for what they are.
    return tuple({repr(item): item for item in value}.values()) if isinstance(value, list | tuple) else value


WholeNumbers = Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], BeforeValidator(_whole_numbers)]


def _arguments(value: object) -> object:
    """Let flags and variables write a JSON object for what is a table in TOML; only what JSON can say is taken."""
    try:
        return json.loads(value) if isinstance(value, str) else json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError('must be a JSON object of plain values, such as {"width": 64}') from error


Arguments = Annotated[dict[str, Any], BeforeValidator(_arguments)]


class Section(Frozen):
    """A table of gpuplan.toml; its fields' docstrings become help texts, comments and the schema's descriptions."""

    # Only here: pydantic reads the source for it, which costs start-up time.
    model_config = ConfigDict(use_attribute_docstrings=True)


class Launch(Section):
    """Where and how to run."""

    instance: str = "local"
    """Instance profile: a short or a full name, such as g5, g5.12xlarge, p4d or local."""
    pipeline: str = "lr-then-train"
    """Pipeline to run."""
    backend: str = Field(min_length=1)
    """Where jobs run; by default the profile's own."""
    device: Device = "auto"
    """Device of the job: cuda fails without a usable GPU; cpu rehearses with the same number of gloo processes."""
    world_size: int | None = Field(default=None, ge=1, le=4096, examples=[4])
    """Training processes, one a GPU; by default all GPUs of all nodes."""
    nodes: int = Field(default=1, ge=1, le=64)
    """Instances the training runs on."""
    spot: bool = False
    """Train on spot capacity: cheaper, may be interrupted, goes on from its newest checkpoint."""
    checkpoint_minutes: float | None = Field(default=None, gt=0, le=24 * 60, examples=[10])
    """Minutes between checkpoints within an epoch; by default from what a save takes and how often machines fail."""
    max_cost: Usd | None = Field(default=None, gt=0, examples=["12.50"])
    """Refuse to start if the p90 cost in USD passes this; sent with the jobs as time limits that AWS enforces."""
    max_hours: float | None = Field(default=None, gt=0, le=28 * 24, examples=[12])
    """Time limit of the training in hours, enforced by AWS; by default 1.5 times its p90 time and 15 minutes."""


class Aws(Section):
    """Where in AWS; read by backends that run there."""

    region: str = Field(pattern=r"^[a-z][a-z0-9-]{1,31}$", examples=["us-east-1"])
    """AWS region; by default AWS_REGION, AWS_DEFAULT_REGION, the AWS profile's, else the instance profile's."""
    profile: str | None = Field(default=None, min_length=1, examples=["default"])
    """Profile of the AWS configuration; by default AWS_PROFILE."""
    role_arn: Annotated[str | None, Flag("--role", "GPUPLAN_ROLE_ARN")] = Field(
        default=None,
        pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$",
        examples=["arn:aws:iam::123456789012:role/gpuplan-execution"],
    )
    """Execution role of the jobs; by default the stack's."""
    bucket: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", examples=["gpuplan-123456789012"]
    )
    """S3 bucket of code, checkpoints and results; by default the stack's."""
    prefix: str = Field(default="gpuplan", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.=-]*(/[A-Za-z0-9][A-Za-z0-9_.=-]*)*$")
    """Prefix in the bucket under which everything lies."""
    stack: str = Field(default="gpuplan", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,127}$")
    """CloudFormation stack that names role and bucket where they are left out: gpuplan infra deploy makes it."""
    image: str | None = Field(
        default=None, pattern=r"^\S{1,255}$", examples=["123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1"]
    )
    """Training image; by default the newest SageMaker image that runs on the GPU."""
    wheels: bool = True
    """Send pinned wheels of what SageMaker's images lack, PyTorch Lightning; an image that has it needs none."""
    network_isolation: bool = True
    """Run jobs without network access; their code and wheels come through S3 channels."""
    poll_seconds: float = Field(default=20.0, ge=0.05, le=3600)
    """Seconds between two looks at a job."""


class Workload(Section):
    """What to train."""

    model: str = "resnet18"
    """Name of a torchvision classification model."""
    data: str = "digits"
    """digits, imagefolder:PATH, fake:CxHxW:classes:samples, or imagenet (for plans)."""
    model_args: Arguments = Field(default={}, examples=[{"width": 64}])
    """Constructor arguments of a model of your own; a JSON object as a flag."""
    data_args: Arguments = Field(default={}, examples=[{"root": "photos"}])
    """Constructor arguments of a data module of your own; a JSON object as a flag."""
    image_size: int | None = Field(default=None, ge=1, le=4096, examples=[224])
    """Side in pixels to resize images to; by default the data's own size."""
    epochs: int = Field(default=5, ge=1, le=100_000)
    """Passes over the training data."""
    per_gpu_batch: int = Field(ge=1, le=1_000_000)
    """Samples per GPU and micro-batch, equal in lr-find and train."""
    accumulate: int = Field(default=1, ge=1, le=MOST_ACCUMULATION)
    """Micro-batches per optimizer step in training."""
    optimizer: Optimizer = "sgd"
    """Optimizer: own is the one that a LightningModule of yours configures, and the default for it."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD; AdamW uses its own betas."""
    weight_decay: float = Field(default=5e-4, ge=0, lt=1)
    """Weight decay."""
    decay_norms: bool = False
    """Let weight decay act on the weights of normalisation layers and on biases too."""
    schedule: Schedule = "onecycle"
    """Learning-rate schedule of the training; cosine follows a linear warm-up; own is your LightningModule's."""
    clip_norm: float | None = Field(default=None, gt=0, le=1e6, examples=[1.0])
    """Clip the gradient of an optimizer step to this norm."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1, examples=[0.9999])
    """Validate and keep a moving average of the weights, with this decay an optimizer step."""
    sync_batchnorm: bool = False
    """Let BatchNorm see the micro-batches of all GPUs together."""
    batch_schedule: BatchSchedule = "constant"
    """Growth of the global batch over the epochs, from one micro-batch a GPU to all --accumulate; the LR follows."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the training loss."""
    checkpointing: bool = False
    """Activation checkpointing: less memory, about a third more time."""
    channels_last: bool = False
    """Keep images and convolutions in the memory format NHWC."""
    compile: bool = False
    """Compile the network with torch.compile; estimates are those without."""
    precision: Precision
    """fp32, 16-mixed or bf16-mixed; by default what the GPU does best."""
    workers: int = Field(ge=0, le=64)
    """Data-loading processes per training process."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of weights, order and augmentation."""


class Lr(Section):
    """How the learning rate is found and carried over."""

    learning_rate: Annotated[float | None, Flag("--lr")] = Field(default=None, gt=0, le=1000, examples=[0.05])
    """Train with this learning rate and skip the finder."""
    rule: Annotated[str, Flag("--lr-rule")] = RULE
    """Rule that reads the range test's curve."""
    transfer: Annotated[str | None, Flag("--lr-transfer")] = Field(default=None, examples=["noise-scale"])
    """Policy that carries the learning rate from one GPU to all; by default sqrt, with --fixed steps none."""
    fixed: Literal["epochs", "steps"] = "epochs"
    """What of the training stays when more GPUs make its batch larger: its epochs, or its optimizer steps."""
    check: Annotated[bool, Flag("--lr-check")] = False
    """Also sweep at the training's own global batch, by accumulation, and warn where the policy disagrees."""
    warmup_epochs: float | None = Field(default=None, ge=0, le=1000, examples=[5])
    """Epochs over which the training's learning rate rises at first, 0 for none; by default from the batch's growth."""
    runs: int = Field(default=RUNS, ge=1, le=20)
    """Sweeps of the range test; their average is judged."""
    iterations: Annotated[int | None, Flag("--lr-iterations")] = Field(default=None, ge=30, le=10_000, examples=[100])
    """Optimizer steps of one sweep; by default a quarter of the training on one GPU, from 100 to 300."""
    lr_min: float | None = Field(default=None, gt=0, examples=[1e-5])
    """Learning rate at which a sweep starts; by default 1e-5."""
    lr_max: float | None = Field(default=None, gt=0, le=1000, examples=[10.0])
    """Learning rate at which a sweep ends; by default 10."""
    compare_batches: WholeNumbers = Field(default=(), max_length=8, examples=[(32, 64, 128)])
    """Other per-GPU batches to sweep at as well, such as 32,64,128; how far their learning rates spread is reported."""
    carry_to_gpus: int | None = Field(default=None, ge=1, le=4096, examples=[8])
    """GPUs of the training that a range test alone (--pipeline lr, find-lr) is for; by default those of the plan."""
    finder_batch: int | None = Field(default=None, ge=1, le=1_000_000, examples=[32])
    """Another per-GPU batch for lr-find alone: breaks the rule that both steps use the same, and the plan says so."""
    finder_instance: str | None = Field(default=None, min_length=1, examples=["g6.xlarge"])
    """Single-GPU instance type for lr-find; by default the cheapest that fits, or the training's own GPU if near it."""


class Settings(Frozen):
    """All settings of one run, complete: what a plan is computed from."""

    launch: Launch
    aws: Aws
    workload: Workload
    lr: Lr


@dataclass(frozen=True)
class SettingField:
    """One setting as the layers see it."""

    section: str
    name: str
    flag: str
    annotation: object
    help: str
    own_variable: str = ""

    @property
    def variable(self) -> str:
        """The environment variable, `GPUPLAN_LR_RULE` for `--lr-rule`."""
        return self.own_variable or "GPUPLAN_" + self.flag.removeprefix("--").replace("-", "_").upper()

    @property
    def key(self) -> str:
        """The dotted key in gpuplan.toml."""
        return f"{self.section}.{self.name}"


def setting_fields() -> list[SettingField]:
    """Return every setting in the order of the sections."""
    found = []
    for section, model in SECTIONS.items():
        for name, info in model.model_fields.items():
            flag = next((item for item in info.metadata if isinstance(item, Flag)), Flag(f"--{name.replace('_', '-')}"))
            found.append(SettingField(section, name, flag.name, info.annotation, info.description or "", flag.variable))
    return found


SECTIONS: dict[str, type[Frozen]] = {"launch": Launch, "aws": Aws, "workload": Workload, "lr": Lr}
