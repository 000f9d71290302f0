"""`gpuplan advise`: what a change of batch or of GPUs, or a fine-tuning, means for the training; runs nothing."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic import ValidationError

from gpuplan.cli.options import DebugOption, Output, OutputOption
from gpuplan.cli.planning import options_of, resolve_profile
from gpuplan.core.errors import UsageError
from gpuplan.core.explain import rule_broken, shown
from gpuplan.core.frozen import Unknown
from gpuplan.core.names import did_you_mean
from gpuplan.core.units import gib_from_mib, learning_rate
from gpuplan.planning.advice.advice import Question, advise
from gpuplan.planning.advice.batch_ways import Machine
from gpuplan.planning.advice.parts import Norm, norm_of
from gpuplan.planning.traces import shipped
from gpuplan.reports.advise_text import advise_text
from gpuplan.reports.layout import Facts, console, show
from gpuplan_job import data as kinds

if TYPE_CHECKING:
    from gpuplan.planning.advice.advice import Advice
    from gpuplan.planning.advice.critical_batch import GpuOption

_EXAMPLE = {"--from-batch": "64", "--to-batch": "256", "--lr": "2.11e-3"}


def command(
    ctx: typer.Context,
    from_batch: Annotated[
        int | None, typer.Option("--from-batch", help="Global batch at which the learning rate is known.")
    ] = None,
    to_batch: Annotated[
        int | None,
        typer.Option("--to-batch", help="Global batch to train with; by default what the GPUs make of the batch."),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate that is right at --from-batch.")] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Instance profile to train on: its GPUs and their memory.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", help="Number of GPUs; by default all of the instance.", show_default=False)
    ] = None,
    per_gpu_batch: Annotated[
        int | None, typer.Option("--per-gpu-batch", help="Samples per GPU and micro-batch, where it is settled.")
    ] = None,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adamw.")] = "sgd",
    noise_scale: Annotated[
        float | None, typer.Option("--noise-scale", help="Measured gradient noise scale in samples.")
    ] = None,
    fixed: Annotated[str, typer.Option("--fixed", help="What stays the same: epochs or steps.")] = "epochs",
    model: Annotated[str | None, typer.Option("--model", help="torchvision model: does it have BatchNorm?")] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help="Its normalisation: batch, group, layer or none; before --model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Data, as for plan: their samples count the steps.")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Training samples, instead of --data.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of the training at --from-batch.")] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help="Weight decay at --from-batch; by default gpuplan's own.")
    ] = None,
    dropout: Annotated[float | None, typer.Option("--dropout", help="Dropout at --from-batch.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option("--label-smoothing", help="Label smoothing at --from-batch; by default none.")
    ] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="The weights are pre-trained.")] = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Say what another batch means: LR by each rule, warm-up, accumulation, regularisation, BatchNorm. Runs nothing.

    Example: gpuplan advise --from-batch 64 --to-batch 256 --lr 2.11e-3. Where sources disagree: docs/advice.md.
    """
    del debug
    machine = _machine(instance, gpus)
    base = per_gpu_batch or from_batch
    if to_batch is None and base is not None and machine.gpus is not None:
        to_batch = max(1, base * machine.gpus)  # a base below 1 is refused by its own name
    _require({"--from-batch": from_batch, "--to-batch": to_batch, "--lr": lr})
    question = _question(
        from_batch=from_batch,
        to_batch=to_batch,
        learning_rate=lr,
        optimizer=optimizer,
        fixed=fixed,
        noise_scale=noise_scale,
        machine=machine,
        per_gpu_batch=per_gpu_batch,
        epochs=epochs,
        samples=_samples(data, samples),
        weight_decay=weight_decay,
        dropout=dropout,
        label_smoothing=label_smoothing,
        norm=_norm(model, norm),
        finetune=finetune,
    )
    advice = advise(question)
    if options := _options(question, advice, model, data):
        advice = advise(question, options)
    if output is Output.JSON:
        typer.echo(json.dumps(advice.document(), indent=2, ensure_ascii=False))
        return
    follow = _Follow(question, advice, {"--model": model, "--data": data})
    show([*advise_text(advice), Facts(tuple(follow.facts(_asked(ctx))))], console())


class _Follow:
    """What to do after the advice."""

    def __init__(self, question: Question, advice: Advice, named: dict[str, str | None]) -> None:
        self._question = question
        self._advice = advice
        self._named = named

    def facts(self, asked: list[str]) -> list[tuple[str, str]]:
        """Return options and commands that follow; `asked` are the options of the question."""
        options = self._options()
        plan = ("next", shlex.join(["gpuplan", "plan", *options]))
        commands = [plan]
        if self._question.machine.instance is None:
            more = ("next", shlex.join(["gpuplan", "advise", *asked, "--instance", "g5"]))
            use = ("use", f"{shlex.join(options)}    with your other options of gpuplan launch")
            commands = [] if self._advice.finetuning else [use]
            commands.append(more if self._splits_over_four() else plan)
        if isinstance(self._advice.noise_scale, Unknown) and self._advice.ratio != 1 and not self._advice.finetuning:
            measure = ["--pipeline", "lr", *self._place(), *self._per_gpu()]
            commands.append(("next", shlex.join(["gpuplan", "launch", *measure])))
        return commands

    def _splits_over_four(self) -> bool:
        """Return whether the question can be asked again for g5's four GPUs."""
        asked = self._question
        return asked.machine.gpus is None and asked.per_gpu_batch is None and asked.to_batch % 4 == 0

    def _place(self) -> list[str]:
        named = {"--instance": self._question.machine.instance, **self._named}
        options = [part for flag, value in named.items() if value is not None for part in (flag, value)]
        return [*options, "--optimizer", "adamw"] if self._question.optimizer == "adamw" else options

    def _per_gpu(self) -> list[str]:
        parts = self._advice.accumulation
        return [] if isinstance(parts, Unknown) else ["--per-gpu-batch", str(parts.ways[0].per_gpu)]

    def _options(self) -> list[str]:
        advice, machine = self._advice, self._question.machine
        options = self._place()
        if machine.nodes > 1:
            options += ["--nodes", str(machine.nodes)]
        options += self._per_gpu()
        if not isinstance(advice.accumulation, Unknown):
            way = advice.accumulation.ways[0]
            if machine.partial or (machine.instance is None and way.world_size > 1):
                options += ["--world-size", str(way.world_size)]
            if way.accumulation > 1:
                options += ["--accumulate", str(way.accumulation)]
        if not isinstance(advice.updates, Unknown):
            options += ["--epochs", str(advice.updates.epochs[1])]
        chosen = advice.finetuning or advice.chosen
        return [*options, "--lr", learning_rate(chosen.learning_rate)]


def _options(question: Question, advice: Advice, model: str | None, data: str | None) -> tuple[GpuOption, ...]:
    """Return the training on several numbers of the instance's GPUs; none where something of it is not said."""
    machine, parts = question.machine, advice.accumulation
    unsaid = None in (question.noise_scale, machine.instance, model, data, question.epochs)
    if unsaid or machine.instance is None or isinstance(parts, Unknown):
        return ()
    way = parts.ways[0]
    values = {
        "launch.instance": machine.instance,
        "launch.world_size": machine.gpus,
        "launch.nodes": machine.nodes,
        "workload.model": model,
        "workload.data": data,
        "workload.epochs": question.epochs,
        "workload.per_gpu_batch": way.per_gpu,
        "workload.accumulate": way.accumulation,
        "workload.optimizer": question.optimizer,
    }
    return options_of(values, resolve_profile(machine.instance))


def _asked(ctx: typer.Context) -> list[str]:
    """Return the options of a command line, as it could be typed again."""
    arguments: list[str] = []
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in {"output", "debug"}:
            continue
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    return arguments


def _require(given: dict[str, object]) -> None:
    missing = [flag for flag, value in given.items() if value is None]
    if missing:
        shown_values = {flag: _EXAMPLE[flag] if value is None else f"{value}" for flag, value in given.items()}
        example = " ".join(f"{flag} {value}" for flag, value in shown_values.items())
        raise UsageError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            why="the advice is on a learning rate that is right at one global batch and goes to another",
            fix=f"gpuplan advise {example}",
        )


def _machine(instance: str | None, gpus: int | None) -> Machine:
    """Return the machine of a profile and a number of GPUs.

    Raises:
        UsageError: there is no such profile, or the GPUs do not fill whole machines.
    """
    if gpus is not None and not 1 <= gpus <= 4096:  # noqa: PLR2004 - the bound of --world-size
        raise UsageError(f"--gpus {gpus} is not between 1 and 4096", fix="--gpus 4")
    if instance is None:
        return Machine(gpus=gpus)
    profile = resolve_profile(instance)
    shape = profile.train
    wanted = gpus or shape.gpus
    if wanted > shape.gpus and wanted % shape.gpus and shape.interconnect != "host":
        raise UsageError(
            f"--gpus {wanted} do not fill machines of {shape.gpus}: {profile.name}",
            why="every machine runs the same number of processes",
            fix=f"--gpus {wanted // shape.gpus * shape.gpus}",
        )
    host = shape.interconnect == "host"
    return Machine(
        instance=instance,
        gpu=profile.gpu.model,
        gpus=wanted,
        memory_gib=gib_from_mib(profile.gpu.memory_mib),
        nodes=1 if host else max(1, wanted // shape.gpus),
        partial=wanted != shape.gpus if host else wanted < shape.gpus,
    )


def _samples(spec: str | None, samples: int | None) -> int | None:
    if spec is None:
        return samples
    if samples is not None:
        raise UsageError("--data and --samples both say how many samples there are", fix=f"--data {shlex.quote(spec)}")
    try:
        return kinds.describe(spec).train_samples
    except kinds.DataError as error:
        raise UsageError(f"--data {spec}: {error}", fix="--samples 50000 says it without the data") from error


def _norm(model: str | None, norm: str | None) -> Norm:
    """Return the normalisation, as given or as the model is known for.

    Raises:
        UsageError: there is no such model or normalisation.
    """
    if model is not None and ":" not in model and model not in shipped.names():
        raise UsageError(
            f"--model {model!r} is not known", why=did_you_mean(model, shipped.names()), fix="--norm batch"
        )
    if norm is not None:
        known: tuple[Norm, ...] = get_args(Norm)
        found = next((name for name in known if name == norm), None)
        if found is None:
            raise UsageError(f"--norm {norm!r} is not known", why=did_you_mean(norm, known), fix="--norm batch")
        return found
    return "unknown" if model is None else norm_of(shipped.example(model))


def _question(**given: Any) -> Question:  # noqa: ANN401 - the model judges what each is
    """Return the question that the options make.

    Raises:
        UsageError: a value is out of range; names the flag and the rule it breaks.
    """
    try:
        return Question.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        items = error.errors(include_url=False)
        lines = [f"{_flag(str(item['loc'][0]))} = {shown(item['input'])}: {rule_broken(item)}" for item in items]
        raise UsageError(lines[0], why="; ".join(lines[1:]), fix="gpuplan advise --help") from error


def _flag(name: str) -> str:
    return "--lr" if name == "learning_rate" else f"--{name.replace('_', '-')}"
