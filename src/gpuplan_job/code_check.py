"""What is asked of a user's own code before it costs anything, and what it answered on a CPU.

Written by `check` on a machine with torch, read by the client's planning. Standard library only; it checks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from gpuplan_job.contract import DataDescription  # noqa: TC001 - reading a document resolves its annotations
from gpuplan_job.document import ContractError, Document

ModelKind = Literal["lightning", "network", "torchvision"]
OptimizerKind = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "lamb", "other"]


@dataclass(frozen=True)
class CheckRequest(Document):
    """Which model on which data."""

    SCHEMA: ClassVar[str] = "gpuplan.check-request/1"

    model: str
    model_args: dict[str, Any]
    data: str
    data_args: dict[str, Any]
    image_size: int | None
    described: DataDescription | None
    """What is known of data that are not the user's own code; None of those that are, which are to be described."""
    here: bool
    """Whether samples can be read on this machine; else a random batch of the described shape stands for them."""


@dataclass(frozen=True)
class OwnOptimizer:
    """The one optimizer that a LightningModule configures."""

    name: str
    """Of its class."""
    kind: OptimizerKind
    momentum: float
    weight_decay: float
    rate_at: str
    """Where the model states its learning rate: `learning_rate`, `hparams.lr`; empty: nowhere that gpuplan looks."""
    follows: bool
    """Whether another rate stated there is that of a parameter group."""


@dataclass(frozen=True)
class CodeCheck(Document):
    """What one batch of two through the model, forward and backward, has shown."""

    SCHEMA: ClassVar[str] = "gpuplan.code-check/1"

    data: DataDescription
    batch: list[str]
    """Type and shape of each tensor of a batch of two, such as `float32 [2, 1, 8, 8]`."""
    kind: ModelKind
    unused: list[str]
    """Parameters that ask for a gradient and get none: DDP waits for it, or fails."""
    optimizer: OwnOptimizer | None
    """None where the model configures none; then gpuplan's own is used."""
    optimizer_problem: str
    """Why gpuplan cannot use what the model configures; empty if it can, or there is none."""
    notes: list[str]
    """What gpuplan does in another way than the user's code says."""
    reads: dict[str, list[int]] = field(default_factory=dict)
    """Files and folders outside the shipped code that were opened, with size in bytes and time of change in
    nanoseconds: what was checked is no longer true when they change."""

    def __post_init__(self) -> None:
        """Refuse sizes and times that are none."""
        if any(len(seen) != 2 for seen in self.reads.values()):  # noqa: PLR2004 - size and time
            raise ContractError("CodeCheck: reads must hold a size and a time")
