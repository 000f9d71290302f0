"""`gpuplan memory`: what a training step takes on a GPU, by kind and module, and the largest batch that is safe."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Annotated, get_args

import typer

from gpuplan.cli.options import DebugOption, Output, OutputOption
from gpuplan.cli.planning import known, resolve_profile, traces
from gpuplan.core.errors import NoResultError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import MIB_PER_GIB
from gpuplan.planning.memory.estimate import TrainingProcess
from gpuplan.planning.memory.report import Card, MemoryQuestion, report
from gpuplan.planning.memory.step_program import Optimizer
from gpuplan.planning.traces import shipped
from gpuplan.profiles.load import load_all
from gpuplan.profiles.schema import InstanceProfile
from gpuplan.reports.layout import console, show
from gpuplan.reports.memory_text import memory_document, memory_text
from gpuplan_job import data
from gpuplan_job.contract import DataDescription, Precision

_BATCH = 32
_SIDE = 224


def command(
    model: Annotated[
        str, typer.Option("--model", help="torchvision classification model, or module:callable of your own.")
    ] = "resnet50",
    per_gpu_batch: Annotated[
        int | None,
        typer.Option("--per-gpu-batch", "--batch-size", min=1, help=f"Samples per GPU; by default {_BATCH}."),
    ] = None,
    find_batch: Annotated[bool, typer.Option("--find-batch", help="Find the largest safe batch of each card.")] = False,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, max=4096, help="Side in pixels; by default the data's.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Samples are sequences of this many tokens.")] = 0,
    data_name: Annotated[str, typer.Option("--data", help="What the samples are like.")] = "imagenet",
    precision: Annotated[str | None, typer.Option("--precision", help="fp32, 16-mixed or bf16-mixed.")] = None,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd, adam, adamw, lamb, rmsprop or adagrad.")] = "sgd",
    momentum: Annotated[float, typer.Option("--momentum", min=0, max=1, help="Of SGD and RMSprop.")] = 0.9,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0, help="Weight decay.")] = 5e-4,
    loop: Annotated[
        str, typer.Option("--loop", help="lightning or plain: where gradients are set to zero.")
    ] = "lightning",
    world_size: Annotated[int, typer.Option("--world-size", min=1, help="Processes of the training.")] = 1,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute each block's activations in the backward pass.")
    ] = False,
    instance: Annotated[
        str | None, typer.Option("--instance", help="Instance whose GPU is meant; by default all are shown.")
    ] = None,
    card_gib: Annotated[
        float | None, typer.Option("--card-gib", min=0.1, help="GiB of the card that is meant, as the driver shows it.")
    ] = None,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Show the memory of one model at one batch: the peak by kind and module, the cards it fits, what would save.

    No GPU needed; models that ship with gpuplan need no PyTorch either.
    """
    del debug
    if ":" not in model:
        known(model, shipped.names(), "--model")
    known(optimizer, get_args(Optimizer), "--optimizer")
    known(loop, ("lightning", "plain"), "--loop")
    chosen = _chosen(instance, card_gib)
    wanted = precision or (resolve_profile(instance).defaults.precision if instance else "bf16-mixed")
    known(wanted, get_args(Precision), "--precision")
    described = _described(data_name)
    question = MemoryQuestion(
        model=model,
        image_size=image_size or described.height,
        process=TrainingProcess.model_validate(
            {
                "per_gpu_batch": per_gpu_batch or _BATCH,
                "precision": wanted,
                "optimizer": optimizer,
                "momentum": momentum if optimizer in {"sgd", "rmsprop"} else 0.0,
                "weight_decay": weight_decay,
                "world_size": world_size,
                "loop": loop,
            }
        ),
        checkpointing=checkpointing,
        tokens=tokens,
    )
    found = report(question, described, traces(), [chosen] if chosen else _cards(), search=find_batch)
    if isinstance(found, Unknown):
        what, _, fix = found.unknown.partition("; ")
        raise NoResultError(f"the memory of {model} is not known", why=what, fix=fix or "gpuplan memory --help")
    if output is Output.JSON:
        typer.echo(json.dumps(memory_document(found, chosen is not None), indent=2, ensure_ascii=False))
    else:
        show(memory_text(found, _next(model, find_batch=find_batch)), console())


def _next(model: str, *, find_batch: bool) -> list[str]:
    given = shlex.join(sys.argv[2:])
    commands = [] if find_batch else [f"gpuplan memory {given} --find-batch".replace("  ", " ")]
    return [*commands, f"gpuplan plan --instance g5 --model {shlex.quote(model)} --data imagenet"]


def _chosen(instance: str | None, card_gib: float | None) -> Card | None:
    """Return the card that the user means; with both, the size given of the instance's GPU.

    Raises:
        UsageError: the instance has no GPU of which the memory is known.
    """
    if instance is None:
        name = "--card-gib"
        return None if card_gib is None else Card(instance=name, gpu="card", memory_mib=round(card_gib * MIB_PER_GIB))
    profile = resolve_profile(instance)
    if profile.gpu.accelerator != "cuda" and card_gib is None:
        raise UsageError(
            f"{profile.name} has no CUDA GPU here",
            why="the estimate is of PyTorch's CUDA allocator",
            fix="--instance g5, or --card-gib 24",
        )
    size = profile.gpu.memory_mib if card_gib is None else round(card_gib * MIB_PER_GIB)
    gpu = profile.gpu
    return Card(instance=profile.name, gpu=gpu.model, memory_mib=size, compute_capability=gpu.compute_capability)


def _cards() -> list[Card]:
    """Return the GPU of each profile once, smallest first."""
    cards: dict[tuple[str, int], Card] = {}
    for profile in load_all():
        if isinstance(profile, InstanceProfile):
            gpu = profile.gpu
            cards.setdefault(
                (gpu.model, gpu.memory_mib),
                Card(
                    instance=profile.name,
                    gpu=gpu.model,
                    memory_mib=gpu.memory_mib,
                    compute_capability=gpu.compute_capability,
                ),
            )
    return sorted(cards.values(), key=lambda card: -card.memory_mib)


def _described(name: str) -> DataDescription:
    try:
        return data.describe(name)
    except data.DataError as error:
        raise UsageError(f"--data {name}: {error}", fix="--data imagenet") from error
