"""Instance profiles as people and scripts read them: the list, one profile with all its facts, a check's findings.

Called by `gpuplan profiles`. It returns blocks and documents; it reads no file and does not look at this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import gib_from_mib, significant, usd
from gpuplan.profiles.schema import DetectedProfile, InstanceProfile, Price, SpotPrice
from gpuplan.reports.layout import Facts, Line, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gpuplan.profiles.hardware import Gpu, Shape
    from gpuplan.profiles.load import Finding
    from gpuplan.profiles.schema import Service

AnyProfile = InstanceProfile | DetectedProfile
Blocks = list[Line | Table | Facts]

_LIST_COLUMNS = ("name", "short", "GPUs", "GiB each", "vCPU", "EC2 $/h", "SageMaker $/h", "lifecycle", "finder")
_PRICE_COLUMNS = ("instance", "region", "service", "$/h", "as of", "read from")
_NO_CHARGE = "none: this machine costs nothing here"
_MARK = "*"
_DERIVED = "~"


def list_text(profiles: Sequence[AnyProfile]) -> Blocks:
    """Return the table of all profiles, with prices in each one's default region and their days."""
    rows = [_list_row(profile) for profile in profiles]
    regions = sorted({profile.defaults.region for profile in profiles if profile.defaults.region})
    notes = [
        ("prices", f"on demand, whole instance, {' or '.join(regions)}, with their day"),
        ("prices", f"{_DERIVED} derived from EC2's, not read"),
        ("finder", f"the single-GPU instance of lr-find; {_MARK} another GPU than training"),
        ("next", "gpuplan profiles show g5"),
        ("next", "gpuplan plan --instance g5"),
    ]
    return [Line(f"{len(profiles)} instance profiles"), Table(_LIST_COLUMNS, tuple(rows)), Facts(tuple(notes))]


def profile_text(profile: InstanceProfile, *, detected: bool) -> Blocks:
    """Return all facts of a profile; `detected` says that its hardware was found on this machine."""
    short = f" ({', '.join(profile.aliases)})" if profile.aliases else ""
    blocks: Blocks = [Line(f"{profile.name}{short} · {profile.description}"), Facts(tuple(_facts(profile, detected)))]
    if profile.prices:
        rows = (*map(_price_row, profile.prices), *map(_spot_row, profile.spot_prices))
        blocks.append(Table(_PRICE_COLUMNS, rows))
    blocks.append(Facts((*_sources(profile), ("next", f"gpuplan plan --instance {profile.name}"))))
    return blocks


def check_text(directory: Path, files: int, findings: Sequence[Finding]) -> Blocks:
    """Return what a check found, or that it found nothing."""
    checked = f"{files} profile file{'s' if files > 1 else ''} checked in {directory}"
    if not findings:
        return [Line(f"{checked}: no findings")]
    rows = tuple((finding.file, finding.message) for finding in findings)
    return [
        Line(f"{checked}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"),
        Table(("file", "finding"), rows),
    ]


def list_document(profiles: Sequence[AnyProfile]) -> dict[str, Any]:
    """Return the list as `gpuplan.profiles/1`; what only this machine can tell is `unknown`."""
    return {"schema": "gpuplan.profiles/1", "profiles": [_list_entry(profile) for profile in profiles]}


def profile_document(profile: InstanceProfile, *, detected: bool) -> dict[str, Any]:
    """Return a profile as `gpuplan.profile/1`: its file's keys and what follows from them."""
    return {
        "schema": "gpuplan.profile/1",
        "detected": detected,
        "finder_differs": profile.finder_differs,
        **profile.document(),
    }


def check_document(directory: Path, files: int, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return a check as `gpuplan.profiles-check/1`."""
    return {
        "schema": "gpuplan.profiles-check/1",
        "directory": str(directory),
        "files": files,
        "findings": [finding.document() for finding in findings],
    }


def _list_row(profile: AnyProfile) -> tuple[str, ...]:
    short, state = ", ".join(profile.aliases), profile.lifecycle.state
    if isinstance(profile, DetectedProfile):
        return profile.name, short, "found when planning", "", "", "none", "none", state, "this machine"
    train, finder = profile.train, profile.finder
    return (
        profile.name,
        short,
        f"{train.gpus} x {profile.gpu.model}",
        significant(gib_from_mib(profile.gpu.memory_mib)),
        str(train.vcpus),
        _price_text(_price(profile, "ec2")),
        _price_text(_price(profile, "sagemaker")),
        state,
        f"{finder.instance_type}{_MARK if profile.finder_differs else ''}",
    )


def _list_entry(profile: AnyProfile) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": profile.name,
        "aliases": list(profile.aliases),
        "description": profile.description,
        "lifecycle": profile.lifecycle.state,
    }
    if isinstance(profile, DetectedProfile):
        found = Unknown(unknown="found on this machine: gpuplan profiles show local").document()
        seen = dict.fromkeys(("gpu", "gpus", "memory_gib", "vcpus", "finder"), found)
        return {**entry, **seen, "finder_differs": False, "rate_usd_per_hour": {}}
    prices = {service: _price_document(_price(profile, service)) for service in ("ec2", "sagemaker")}
    return {
        **entry,
        "gpu": profile.gpu.model,
        "gpus": profile.train.gpus,
        "memory_gib": round(gib_from_mib(profile.gpu.memory_mib), 2),
        "vcpus": profile.train.vcpus,
        "finder": profile.finder.instance_type,
        "finder_differs": profile.finder_differs,
        "region": profile.defaults.region,
        "rate_usd_per_hour": prices,
    }


def _price(profile: InstanceProfile, service: Service) -> Price | None:
    return profile.price(service, profile.train.instance_type, profile.defaults.region or "")


def _price_text(price: Price | None) -> str:
    if price is None:
        return "unknown"
    return f"{_DERIVED if price.derived else ''}{usd(price.usd_per_hour)} {price.as_of or 'undated'}"


def _price_document(price: Price | None) -> dict[str, Any]:
    if price is None:
        return Unknown(unknown="no price was found for this region").document()
    document = {**price.document(), "amount": str(price.usd_per_hour), "derived": price.derived}
    return {key: document[key] for key in ("amount", "as_of", "source", "derived") if key in document}


def _facts(profile: InstanceProfile, detected: bool) -> Iterator[tuple[str, str]]:  # noqa: FBT001 - private, one caller
    lifecycle, defaults = profile.lifecycle, profile.defaults
    yield "lifecycle", f"{lifecycle.state}, as of {lifecycle.as_of}" if lifecycle.as_of else lifecycle.state
    if lifecycle.note:
        yield "lifecycle", lifecycle.note
    if lifecycle.substitutes:
        yield "instead", ", ".join(lifecycle.substitutes)
    yield from _gpu("GPU" if not detected else "detected here", profile.gpu)
    yield "train", _shape(profile.train)
    for finder in profile.finders:
        yield "lr-find", _shape(finder)
        if finder.gpu is not None:
            yield from _gpu("lr-find", finder.gpu)
            yield "lr-find", "another GPU than training: peak memory and step time measured there do not carry over"
    yield "defaults", f"{defaults.per_gpu_batch} samples per GPU, {defaults.precision}"
    yield "defaults", f"backend {defaults.backend}" + (f", region {defaults.region}" if defaults.region else "")
    for name, shape in (("train", profile.train), *(("lr-find", finder) for finder in profile.finders)):
        quota = profile.quota_of(shape)
        if quota is not None:
            spot = f", spot {quota.spot}" if quota.spot else ""
            yield "EC2 quotas", f"{name}: on demand {quota.on_demand}{spot} (unit: vCPU)"
    if not profile.prices:
        yield "prices", _NO_CHARGE if defaults.region is None else "unknown"


def _gpu(label: str, gpu: Gpu) -> Iterator[tuple[str, str]]:
    yield label, f"{gpu.model}, {significant(gib_from_mib(gpu.memory_mib))} GiB usable ({gpu.memory_mib:,} MiB)"
    if gpu.accelerator == "cuda":
        bf16 = "bf16" if gpu.bf16 else "no bf16"
        named = f", nvidia-smi calls it {gpu.nvidia_smi_name}" if gpu.nvidia_smi_name else ""
        yield label, f"compute capability {gpu.compute_capability or 'unknown'}, {bf16}{named}"
    peaks = (
        ("peak fp16 (dense)", gpu.peak_tflops, "TFLOPS"),
        ("fp32", gpu.fp32_tflops, "TFLOPS"),
        ("memory", gpu.bandwidth_gbs, "GB/s"),
    )
    yield label, ", ".join(f"{name} {f'{v:,g} {unit}' if v else 'unknown'}" for name, v, unit in peaks)


def _shape(shape: Shape) -> str:
    text = f"{shape.instance_type}: {shape.gpus} GPU{'s' if shape.gpus > 1 else ''}"
    if shape.interconnect == "host":
        text = f"{shape.instance_type}: {shape.gpus} CPU process{'es' if shape.gpus > 1 else ''}"
    text += f", {shape.vcpus} vCPU, {shape.ram_gib:,g} GiB RAM"
    if shape.interconnect in {"single-gpu", "host"}:
        return text
    speed = shape.interconnect_gbs_per_gpu
    return f"{text}, {shape.interconnect} " + (f"{speed:,g} GB/s per GPU" if speed else "(speed unknown)")


def _price_row(price: Price) -> tuple[str, ...]:
    day = str(price.as_of) if price.as_of else "undated"
    return price.instance_type, price.region, price.service, usd(price.usd_per_hour), day, price.source


def _spot_row(sample: SpotPrice) -> tuple[str, ...]:
    window = f"{sample.sampled_from:%Y-%m}..{sample.sampled_to:%Y-%m}"
    amount = f"{usd(sample.usd_per_hour)} ({usd(sample.low)} to {usd(sample.high)})"
    return sample.instance_type, sample.region, "ec2 spot", amount, window, sample.source


def _sources(profile: InstanceProfile) -> Iterator[tuple[str, str]]:
    for source in profile.sources:
        day = f" ({source.as_of})" if source.as_of else ""
        yield "sources", f"{source.what}: {source.where}{day}"
