"""The schema of an instance profile: GPU, train and finder shapes, lifecycle, defaults, quotas, prices, sources.

Built by `profiles.load` from TOML and by `profiles.detect` from this machine; read by planning, pipelines and reports.
Values only: it must not read files, look at the machine or know the time.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from gpuplan.core.frozen import Frozen
from gpuplan.profiles.hardware import SAGEMAKER_PREFIX, Gpu, NonEmpty, PositiveInt, Quota, Shape
from gpuplan.profiles.prices import Price, Service, SpotPrice
from gpuplan_job.contract import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "SAGEMAKER_PREFIX",
    "Defaults",
    "DetectedProfile",
    "Gpu",
    "InstanceProfile",
    "Lifecycle",
    "Price",
    "Profile",
    "Quota",
    "Service",
    "Shape",
    "Source",
    "SpotPrice",
]

LifecycleState = Literal["current", "previous-generation", "retired"]


class Lifecycle(Frozen):
    """Whether AWS still offers the instance."""

    state: LifecycleState
    """`current`, `previous-generation` (offered, a successor exists) or `retired` (no longer offered)."""
    as_of: date | None = None
    """Day the state was seen; absent for `local` only."""
    note: str = ""
    """One sentence for the user; required unless `current`."""
    substitutes: tuple[NonEmpty, ...] = ()
    """Names of profiles to use instead, best first; required when `retired`."""

    @model_validator(mode="after")
    def _says_why_and_what_instead(self) -> Self:
        if self.state != "current" and not self.note:
            raise ValueError(f"a {self.state} instance needs a `note` that says so in one sentence")
        if self.state == "retired" and not self.substitutes:
            raise ValueError("a retired instance needs `substitutes`, the profiles to use instead")
        return self


class Defaults(Frozen):
    """What a plan uses where the user says nothing."""

    per_gpu_batch: PositiveInt
    """Samples per GPU and step, the same in lr-find and train."""
    precision: Precision
    """Arithmetic: bf16-mixed where the GPU has it natively, else 16-mixed; fp32 for `local`."""
    backend: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    """Where a launch runs: a file name of `gpuplan.backends`."""
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")] | None = None
    """AWS region; absent where no region applies."""


class Source(Frozen):
    """Where numbers come from; together the sources cover every number outside the prices, which carry their own."""

    what: NonEmpty
    """What was read there."""
    covers: tuple[NonEmpty, ...] = Field(min_length=1)
    """Keys of the profile it stands for, such as `gpu.peak_tflops`; a table's name (`train`) stands for all in it."""
    where: NonEmpty
    """The public source."""
    as_of: date | None = None
    """Day of the source, or of reading it; absent only for what is read from this machine."""


class Profile(Frozen):
    """What every profile file has; `InstanceProfile` knows its hardware, `DetectedProfile` is yet to look."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    """File name without `.toml`; for AWS the train shape's instance type."""
    aliases: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], ...] = ()
    """Short names, such as `g5`; unique over the folder."""
    description: NonEmpty
    """One line for `profiles list`."""
    lifecycle: Lifecycle
    """Whether it can still be had."""
    defaults: Defaults
    """Settings that follow from the hardware."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where the numbers come from."""

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        covered = [key for source in self.sources for key in source.covers]
        strangers = [key for key in covered if key.partition(".")[0] not in type(self).model_fields]
        if strangers:
            raise ValueError(f"a source covers {strangers[0]!r}, which is no key of a profile")
        document = self.model_dump(
            exclude={"name", "aliases", "description", "lifecycle", "prices", "spot_prices", "sources"}
        )
        bare = sorted({key for key in _figures(document) if not any(f"{key}.".startswith(f"{c}.") for c in covered)})
        if bare:
            raise ValueError(f"no source covers {', '.join(bare)}: name it in the `covers` of a [[sources]] entry")
        return self


class DetectedProfile(Profile):
    """A profile whose hardware is found at run time: `detect.resolve` makes an `InstanceProfile` of it."""

    hardware: Literal["detect"]
    """Says that the file names no hardware."""


class InstanceProfile(Profile):
    """One machine to train on, with the single-GPU machines on which its learning rate can be found."""

    gpu: Gpu
    """The GPU of the train shape."""
    train: Shape
    """Where training runs, all its GPUs."""
    finders: tuple[Shape, ...] = Field(min_length=1)
    """Single-GPU shapes for lr-find, cheapest first; with their own `gpu` where none of the same GPU exists."""
    quota: Quota | None = None
    """Quotas of the train shape; absent where EC2's quotas do not apply."""
    prices: tuple[Price, ...] = ()
    """On-demand prices; a price that is missing here is unknown, never 0."""
    spot_prices: tuple[SpotPrice, ...] = ()
    """Samples of EC2's spot prices; they move, and one that is missing here is unknown."""

    @property
    def finder(self) -> Shape:
        """The cheapest shape for lr-find."""
        return self.finders[0]

    @property
    def finder_differs(self) -> bool:
        """Whether the cheapest shape for lr-find has another GPU than training: its measurements do not carry over."""
        return self.finder.gpu is not None

    def gpu_of(self, shape: Shape) -> Gpu:
        """Return the GPU of one of this profile's shapes."""
        return shape.gpu or self.gpu

    def quota_of(self, shape: Shape) -> Quota | None:
        """Return the EC2 quotas that one of this profile's shapes counts against."""
        return shape.quota or self.quota

    def price(self, service: Service, instance_type: str, region: str) -> Price | None:
        """Return the on-demand price of an instance type (with or without `ml.`) in a region, None when unknown."""
        wanted = (service, instance_type.removeprefix(SAGEMAKER_PREFIX), region)
        return next((p for p in self.prices if (p.service, p.instance_type, p.region) == wanted), None)

    @field_validator("prices", mode="after")
    @classmethod
    def _one_price_each(cls, prices: tuple[Price, ...]) -> tuple[Price, ...]:
        rows: dict[tuple[str, str, str], Price] = {}
        for row in prices:
            key = (row.service, row.instance_type, row.region)
            if key in rows:
                kept = max(rows[key], row, key=lambda p: p.as_of or date.min)
                raise ValueError(
                    f"two prices for {' '.join(key)}: keep the newest, {kept.usd_per_hour} of {kept.as_of}"
                )
            rows[key] = row
        for row in prices:
            base = rows.get(("ec2", row.instance_type, row.region))
            if row.ec2_ratio is None:
                continue
            if row.service != "sagemaker" or base is None:
                raise ValueError(
                    f"the derived price of {row.instance_type} in {row.region} needs EC2's price beside it"
                )
            if (row.usd_per_hour, row.as_of) != (base.usd_per_hour * row.ec2_ratio, base.as_of):
                raise ValueError(
                    f"the derived price of {row.instance_type} in {row.region} is {row.usd_per_hour} of {row.as_of}, "
                    f"but EC2's price times {row.ec2_ratio} is {base.usd_per_hour * row.ec2_ratio} of {base.as_of}"
                )
        return prices

    @field_validator("spot_prices", mode="after")
    @classmethod
    def _one_sample_each(cls, samples: tuple[SpotPrice, ...]) -> tuple[SpotPrice, ...]:
        keys = [(row.instance_type, row.region) for row in samples]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"two spot prices for {' '.join(twice)}: keep the newest")
        return samples

    @model_validator(mode="after")
    def _shapes_belong_together(self) -> Self:
        if self.train.gpu is not None:
            raise ValueError("`train` takes its GPU from [gpu]: remove [train.gpu]")
        for finder in self.finders:
            if finder.gpus != 1:
                raise ValueError(f"the finder {finder.instance_type} has {finder.gpus} GPUs: lr-find runs on one")
            if finder.gpu is not None and finder.gpu.model == self.gpu.model:
                raise ValueError(f"the finder {finder.instance_type} has the GPU of [gpu]: remove its own `gpu`")
        if self.defaults.precision == "bf16-mixed":
            lacking = [gpu.model for gpu in (self.gpu, *map(self.gpu_of, self.finders)) if not gpu.bf16]
            if lacking:
                raise ValueError(f"the default precision is bf16-mixed, but {lacking[0]} has no bf16: use 16-mixed")
        known = {self.train.instance_type, *(finder.instance_type for finder in self.finders)}
        priced = {row.instance_type for row in self.prices} | {row.instance_type for row in self.spot_prices}
        strangers = sorted(priced - known)
        if strangers:
            raise ValueError(f"a price for {strangers[0]}, which is no shape of this profile")
        return self

    @model_validator(mode="after")
    def _finders_are_cheapest_first(self) -> Self:
        rows = [self.price("ec2", f.instance_type, self.defaults.region or "") for f in self.finders]
        known = [row.usd_per_hour for row in rows if row is not None]
        if known != sorted(known):
            raise ValueError("`finders` are not cheapest first by EC2's price in the default region")
        return self


def _figures(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every number and quota code in a dumped profile; list positions are left out."""
    if isinstance(value, dict):
        entries: Mapping[str, object] = value
        for key, below in entries.items():
            yield from _figures(below, f"{path}.{key}" if path else key)
    elif isinstance(value, tuple):
        for below in value:
            yield from _figures(below, path)
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or ("quota." in path and value):
        yield path
