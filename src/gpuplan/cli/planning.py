"""From what the user gave to a plan: layers, profile, data, pipeline. Shared by plan and launch; it prints nothing."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from gpuplan import __version__
from gpuplan.aws.location import ambient_region
from gpuplan.backends import base as backends
from gpuplan.cli.home import home
from gpuplan.cli.live_prices import of_settings
from gpuplan.cli.own_code import OwnCode, add_own_optimizer, described, own_code, refuse_unusable
from gpuplan.cli.range_tests import stored_range_test
from gpuplan.core import payload
from gpuplan.core.errors import UsageError
from gpuplan.core.names import did_you_mean
from gpuplan.engine.tracing import LocalTraces
from gpuplan.pipelines import base as pipelines
from gpuplan.planning.gpu_options import gpu_options
from gpuplan.planning.inputs import PlanInputs
from gpuplan.planning.range_test import policy
from gpuplan.planning.traces import shipped
from gpuplan.profiles import detect
from gpuplan.profiles.load import load as load_profile
from gpuplan.profiles.load import load_all
from gpuplan.profiles.schema import InstanceProfile, Service
from gpuplan.workload.load import CONFIG_FILE, Layers, read_config, validate
from gpuplan.workload.schema import NO_REGION, Launch
from gpuplan_job import data, rules, transfer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from gpuplan.cli.options import Given
    from gpuplan.planning.advice.critical_batch import GpuOption
    from gpuplan.planning.plan import FoundBatch, LaunchPlan
    from gpuplan.planning.reuse import LrSource
    from gpuplan.profiles.hardware import Gpu
    from gpuplan.profiles.prices import LivePrices
    from gpuplan.workload.schema import Settings

_REHEARSAL = {"workload.precision": "fp32"}
"""On CPUs mixed precision is slow."""


@dataclass(frozen=True)
class Planned:
    """A plan and how its settings came about."""

    plan: LaunchPlan
    layers: Layers
    given: Given
    live: bool = False
    """Whether --live-prices was given."""
    beside: tuple[str, ...] = ()
    """Options beside the settings, as a command line would repeat them."""
    command: str = "launch"
    """The command that runs it."""

    def arguments(self) -> list[str]:
        """Return the options that lead to this plan as a command line would repeat them."""
        return [*self.given.arguments(), *(["--live-prices"] if self.live else []), *self.beside]


def plan_from(given: Given, *, live: bool = False, lr_from: str | None = None) -> Planned:
    """Return the plan of what was given, over the configuration file, over the profile's defaults.

    With `live`, at prices that AWS is asked for; without it AWS is asked for nothing. `lr_from` names the run whose
    range test gives the learning rate.

    Raises:
        UsageError: a setting, a name or the data are not usable, or the range test is of other conditions.
        NoResultError: that run has no range test that gives a learning rate.
        GpuplanError: `live`, and AWS could not be asked.
    """
    source = None if lr_from is None else stored_range_test(lr_from)
    upper = said(given)
    profile = _profile(upper)
    layers = over_defaults(upper, profile)
    settings = settled(layers)
    code = own_code(settings)
    if add_own_optimizer(layers, code):
        settings = settled(layers)
    prices = of_settings(settings, _types(profile)) if live else None
    inputs = replace(gather(settings, profile, prices, code), lr_source=source)
    return Planned(built(inputs), layers, given, live, ("--lr-from", source.run_id) if source else ())


def said(given: Given) -> Layers:
    """Return what was given over the configuration file: the layers above the profile's defaults.

    Raises:
        UsageError: the file is not usable.
    """
    config = given.config or (Path(CONFIG_FILE) if Path(CONFIG_FILE).exists() else None)
    upper = Layers()
    if config is not None:
        upper.add(read_config(config), str(config))
    upper.add(given.values, given.origins)
    return upper


def over_defaults(upper: Layers, profile: InstanceProfile) -> Layers:
    """Return all layers: what was said over the defaults of a profile."""
    layers = Layers()
    layers.add(_defaults(profile), f"profile {profile.name}")
    _add_ambient_region(layers, profile, upper)
    if upper.values.get("launch.device") == "cpu":
        layers.add(_REHEARSAL, "device cpu")
    layers.add(upper.values, upper.origins)
    return layers


def build(
    settings: Settings,
    live_prices: LivePrices | None = None,
    lr_source: LrSource | None = None,
    found_batch: FoundBatch | None = None,
    code: OwnCode | None = None,
) -> LaunchPlan:
    """Return the plan that complete settings lead to today, with what AWS answered and what runs have measured.

    `code` is the user's own as in `gather`.

    Raises:
        UsageError: a name in them means nothing, or the data are not there.
    """
    inputs = gather(settings, resolve_profile(settings.launch.instance), live_prices, code)
    return built(replace(inputs, lr_source=lr_source, found_batch=found_batch))


def again(plan: LaunchPlan, settings: Settings | None = None) -> LaunchPlan:
    """Return what a plan's settings, or others, lead to today, with the prices and measurements that it holds.

    Raises:
        UsageError: as `build`.
    """
    held = plan.provenance
    return build(settings or held.settings, held.live_prices, held.lr_source, held.found_batch)


def built(inputs: PlanInputs) -> LaunchPlan:
    """Return the plan that its inputs lead to.

    Raises:
        UsageError: the pipeline cannot be run like this.
    """
    return pipelines.load(inputs.settings.launch.pipeline).build(inputs)


def options_of(values: Mapping[str, object], profile: InstanceProfile) -> tuple[GpuOption, ...]:
    """Return a training of these settings, by dotted keys, on several numbers of the profile's GPUs.

    Raises:
        UsageError: a value means nothing, or the data are not there.
    """
    upper = Layers()
    upper.add(values, "advise")
    inputs = gather(settled(over_defaults(upper, profile)), profile)
    return gpu_options(inputs, pipelines.batches(inputs), None)


def gather(
    settings: Settings,
    profile: InstanceProfile,
    live_prices: LivePrices | None = None,
    code: OwnCode | None = None,
) -> PlanInputs:
    """Return all that a plan is a function of, prices that AWS answered among them.

    `code` is the user's own where it has been packed and checked already.

    Raises:
        UsageError: a name in the settings means nothing, the data are not there, or the user's own code fails.
    """
    known(settings.launch.backend, [*backends.names(), *get_args(Service)], "--backend")
    if ":" not in settings.workload.model:
        known(settings.workload.model, shipped.names(), "--model")
    known(settings.lr.rule, rules.names(), "--lr-rule")
    known(policy(settings.lr), transfer.names(), "--lr-transfer")
    try:
        code = code or own_code(settings)
        description = described(code, settings)
    except data.DataError as error:
        raise _bad_data(settings, error) from error
    refuse_unusable(settings, code)
    return PlanInputs(
        settings=settings,
        profile=profile,
        data=description,
        traces=traces(code.packed.archive if code else None),
        payload_sha256=payload.digest(),
        gpuplan_version=__version__,
        candidates=instances() if settings.launch.backend in get_args(Service) else (),
        live=live_prices,
        code=code.package if code else None,
        checked=code.check if code else None,
    )


def _types(profile: InstanceProfile) -> list[str]:
    """Return the instance types whose prices count: the profile's, any for lr-find, any with the training's GPU."""
    own = [shape.instance_type for shape in (profile.train, *profile.finders)]
    others = [
        shape
        for other in instances()
        for shape in (other.train, *other.finders)
        if shape.gpus == 1 or other.gpu_of(shape) == profile.gpu
    ]
    return [*own, *(shape.instance_type for shape in others)]


def instances() -> tuple[InstanceProfile, ...]:
    """Return the profiles of AWS's instances, sorted by name."""
    return tuple(profile for profile in load_all() if isinstance(profile, InstanceProfile))


def traces(code: bytes | None = None) -> LocalTraces:
    """Return where this machine's plans get traces from; the user is told when one has to be made.

    `code` is the archive of the user's own, without which their models are looked for in the current folder.
    """
    return LocalTraces(home() / "traces", lambda said: typer.echo(said, err=True), code)


def resolve_profile(name: str) -> InstanceProfile:
    """Return the profile of a name, with this machine's hardware filled in where it is `local`."""
    return detect.resolve(load_profile(name), detect.this_machine, _known_gpus())


def _known_gpus() -> Iterator[Gpu]:
    """Yield the GPUs of all profiles; they are read only if this machine has an NVIDIA GPU to look up."""
    for profile in load_all():
        if isinstance(profile, InstanceProfile):
            yield profile.gpu


def settled(layers: Layers) -> Settings:
    """Return the settings that the layers add up to; they mean the same from any folder.

    Raises:
        UsageError: a setting is not usable.
    """
    settings = validate(layers)
    try:
        spec = data.pinned(settings.workload.data)
    except data.DataError as error:
        raise _bad_data(settings, error) from error
    return settings.model_copy(update={"workload": settings.workload.model_copy(update={"data": spec})})


def _bad_data(settings: Settings, error: data.DataError) -> UsageError:
    return UsageError(f"--data {settings.workload.data}: {error}", fix="--data digits trains on the shipped images")


def _profile(layers: Layers) -> InstanceProfile:
    name = layers.values.get("launch.instance", Launch.model_fields["instance"].default)
    if not isinstance(name, str):
        raise UsageError(
            f"--instance = {name!r} (from {layers.origins['launch.instance']}): must be a name",
            fix="gpuplan profiles list",
        )
    return resolve_profile(name)


def _defaults(profile: InstanceProfile) -> dict[str, object]:
    """Return the settings that depend on the instance."""
    return {
        "launch.backend": profile.defaults.backend,
        "aws.region": profile.defaults.region or NO_REGION,
        "workload.per_gpu_batch": profile.defaults.per_gpu_batch,
        "workload.precision": profile.defaults.precision,
    }


def _add_ambient_region(layers: Layers, profile: InstanceProfile, upper: Layers) -> None:
    """Let AWS's configuration say the region of an instance that has one: below gpuplan.toml, above the default."""
    named = upper.values.get("aws.profile")
    found = ambient_region(os.environ, named if isinstance(named, str) else None)
    if profile.defaults.region and found:
        value, origin = found
        layers.add({"aws.region": value}, origin)


def known(name: str, choices: Collection[str], flag: str) -> None:
    """Return if a name is among the choices.

    Raises:
        UsageError: it is not.
    """
    if name not in choices:
        example = next(iter(difflib.get_close_matches(name, choices, n=1)), next(iter(choices)))
        raise UsageError(f"{flag} {name!r} is not known", why=did_you_mean(name, choices), fix=f"{flag} {example}")
