"""Advice on a change of batch as people read it: a header, a table of LR rules, facts, next commands last.

Called by `gpuplan advise`. It words what `planning.advice` found and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import count, learning_rate, significant
from gpuplan.planning.advice.parts import ACCUMULATION_TIME
from gpuplan.reports.critical_batch_text import critical_batch_blocks
from gpuplan.reports.layout import Block, Facts, Line, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.advice.advice import Advice
    from gpuplan.planning.advice.batch_ways import Machine
    from gpuplan.planning.advice.parts import Change
    from gpuplan.planning.batch import StepBatch

_COLUMNS = ("rule", "learning rate", "factor", "right where")
_ONECYCLE = (
    "onecycle, the default schedule, rises over its first 30 % of steps and covers it; constant with --lr takes "
    "--warmup-epochs, with an LR that launch finds it warms up by itself"
)


def advise_text(advice: Advice) -> list[Block]:
    """Return the blocks of an advice, in order."""
    found = advice.critical_batch
    gpus = [] if isinstance(found, Unknown) else critical_batch_blocks(found)
    return [Line(header(advice)), Table(_COLUMNS, tuple(_rows(advice))), *gpus, Facts(tuple(_facts(advice)))]


def header(advice: Advice) -> str:
    """Return the line that says which change this is."""
    change = f"batch {count(advice.from_batch)} to {count(advice.to_batch)} (x {number(advice.ratio)})"
    parts = ["gpuplan advise", change, advice.optimizer, f"{advice.fixed} fixed", _machine(advice.machine)]
    return " · ".join(part for part in parts if part)


def _machine(machine: Machine | None) -> str:
    if machine is None or machine.gpus is None:
        return ""
    if machine.instance is None:
        return f"{machine.gpus} GPU{'s' if machine.gpus > 1 else ''}"
    return f"{machine.instance} ({machine.gpus} x {machine.gpu})"


def way_text(way: StepBatch) -> str:
    """Return `64 a GPU x 4 GPUs x 1 = 256`."""
    gpus = "GPUs" if way.world_size > 1 else "GPU"
    product = f"{count(way.per_gpu)} x {count(way.world_size)} {gpus}"
    accumulated = f" x {way.accumulation} accumulated" if way.accumulation > 1 else ""
    return f"{product}{accumulated} = {count(way.global_batch)}"


def number(value: float) -> str:
    """Return a whole number as it is, any other with three significant digits: `1,024`, `0.25`."""
    if value.is_integer():
        return count(int(value))
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def _rows(advice: Advice) -> Iterator[tuple[str, ...]]:
    for rule in advice.rules:
        name = f"{rule.policy} *" if rule.policy == advice.chosen.policy else rule.policy
        value = advice.learning_rate[rule.policy.replace("-", "_")]
        if isinstance(value, Unknown) or isinstance(rule.multiplier, Unknown):
            yield name, "unknown", "", rule.holds
        else:
            yield name, learning_rate(value), number(rule.multiplier), rule.holds


def _facts(advice: Advice) -> Iterator[tuple[str, str]]:
    chosen = advice.chosen
    yield "learning rate", f"{learning_rate(chosen.learning_rate)} by {chosen.policy} *: {chosen.why}"
    for rule in advice.rules:
        if rule.note and rule.policy != chosen.policy and not isinstance(rule.multiplier, Unknown):
            yield "learning rate", rule.note
    yield from _noise(advice)
    if advice.ratio != 1:
        yield "disagreement", _disagreement(advice)
    yield from _finetuning(advice)
    yield from _updates(advice)
    yield "warm-up", _warm_up(advice)
    yield from _batch(advice)
    yield from _regularisation(advice)
    yield "BatchNorm", _batchnorm(advice)
    yield from _accuracy(advice)
    if advice.ratio != 1:
        yield (
            "if it fails",
            "loss explodes or jumps: halve the LR; it falls too slowly: x 1.5; change one thing at a time",
        )
    yield "sources", "; ".join(f"{source.name} {source.where}" for source in advice.sources)
    yield "sources", "rules of practice, where sources disagree, what gpuplan does: docs/advice.md"


def _noise(advice: Advice) -> Iterator[tuple[str, str]]:
    noise = advice.noise_scale
    if isinstance(noise, Unknown):
        if advice.ratio != 1:
            yield "noise scale", f"unknown, {noise.unknown}"
        return
    side = "above both batches: close to linear" if noise > max(advice.from_batch, advice.to_batch) else "between them"
    if noise < min(advice.from_batch, advice.to_batch):
        side = "below both batches: a larger batch buys little"
    text = f"{number(noise)} samples, {side}"
    if not isinstance(advice.to_same_loss, Unknown) and advice.ratio != 1:
        factor = advice.to_same_loss
        text += (
            f"; to the same loss about {significant(factor.steps_factor, 2)} x the steps "
            f"and {significant(factor.samples_factor, 2)} x the samples"
        )
    yield "noise scale", text


def _disagreement(advice: Advice) -> str:
    if advice.fixed == "steps":
        return "scaling rules assume fixed epochs; with fixed steps a scaled LR did worse than the same one"
    return (
        "Goyal scales with the global batch, Hoffer with its root, and guides that hold the per-GPU batch keep the LR; "
        "the noise scale decides between them, so measure it where the LR matters"
    )


def _finetuning(advice: Advice) -> Iterator[tuple[str, str]]:
    if advice.finetuning is None:
        return
    low, high = advice.finetuning.batch
    batch = f"a batch of {low} to {high} is usual" + ("" if advice.finetuning.in_range else f", not {advice.to_batch}")
    rate = learning_rate(advice.finetuning.learning_rate)
    yield (
        "fine-tuning",
        f"{batch}; an LR for training from scratch is too large: start at {rate}, a tenth, or find one on the weights",
    )
    yield "fine-tuning", "gpuplan builds networks with fresh weights: fine-tuning needs a training of your own"


def _updates(advice: Advice) -> Iterator[tuple[str, str]]:
    if advice.ratio == 1:
        return
    if isinstance(advice.updates, Unknown):
        share = number(advice.ratio)
        fewer = f"1/{share}" if advice.ratio > 1 else f"x {number(1 / advice.ratio)}"
        if advice.fixed == "steps":
            yield "steps", f"the same, over x {share} the epochs: x {share} the samples and their cost"
        else:
            yield "steps", f"{fewer} as many in the same epochs ({advice.updates.unknown})"
        return
    before, after = advice.updates.steps, advice.updates
    epochs = f"{count(after.epochs[1])} epoch{'s' if after.epochs[1] > 1 else ''}"
    now = f"{count(after.steps[1])} in {epochs} ({count(after.steps_per_epoch[1])} an epoch)"
    yield "steps", f"{now}, before {count(before[0])} in {count(after.epochs[0])}"


def _warm_up(advice: Advice) -> str:
    warm = advice.warmup
    if warm.verdict == "no":
        reason = "the LR does not rise" if advice.chosen.multiplier <= 1 else "up to twice the batch trains without"
        return f"none needed: {reason}"
    length = warm.length
    if not isinstance(warm.epochs, Unknown):
        length = f"{number(warm.epochs)} epochs"
    if not isinstance(warm.steps, Unknown):
        length += f" or {count(warm.steps)} steps"
    return f"{warm.verdict} at x {number(advice.ratio)}, {length}; {_ONECYCLE}"


def _batch(advice: Advice) -> Iterator[tuple[str, str]]:
    parts = advice.accumulation
    if isinstance(parts, Unknown):
        yield "batch", f"unknown: {parts.unknown}; --instance or --gpus says what is there"
        return
    yield "batch", ", or ".join(way_text(way) for way in parts.ways)
    machine = advice.machine
    if machine is not None and machine.memory_gib is not None:
        start = f"trainings on {significant(machine.memory_gib)} GiB start with up to {machine.largest_start} samples"
        yield "batch", f"{start}; whether yours fits and how long it takes: gpuplan plan"
    accumulated = any(way.accumulation > 1 for way in parts.ways)
    if parts.keep is not None:
        yield (
            "batch",
            f"if memory forces the smaller batch, accumulate: {way_text(parts.keep)}, and all settings stay",
        )
    if parts.time_factor is not None or parts.keep is not None or accumulated:
        low, high = parts.time_factor or ACCUMULATION_TIME
        at_once = f"{number(low)} to {number(high)} x the time of the batch at once, where that fits"
        yield "accumulation", f"by practice {at_once}; at most {parts.most} micro-batches"
        yield (
            "accumulation",
            "saves activations only: gradients and optimizer state stay; BatchNorm sees one micro-batch at a time",
        )
        yield (
            "accumulation",
            "schedule, clipping and EMA once per optimizer step; DDP averages on the last micro-batch (no_sync)",
        )
    if advice.large_batch.exceeded:
        limit, layerwise = count(advice.large_batch.limit), advice.large_batch.optimizer
        yield (
            "optimizer",
            f"past {limit} a layer-wise one, {layerwise}, which gpuplan has not; SGD was verified to there",
        )


def _regularisation(advice: Advice) -> Iterator[tuple[str, str]]:
    rules = advice.regularisation
    if advice.ratio == 1:
        yield "regularisation", "as it is"
        return
    factor = f"x {number(rules.factor)}, the root of the ratio"
    with_sqrt = "; goes with the sqrt rule, linear keeps it" if advice.fixed == "epochs" else ""
    if advice.ratio < 1:
        with_sqrt = "; back down with the batch"
    yield "weight decay", f"{_change(rules.weight_decay)} ({factor}{with_sqrt})"
    if isinstance(rules.dropout, Unknown):
        yield "dropout", f"{factor}, at most 0.5, where the model has any"
    else:
        yield "dropout", f"{_change(rules.dropout)} ({factor}, at most 0.5)"
    smoothing = rules.label_smoothing
    if smoothing.after != smoothing.before or smoothing.before:
        yield "label smoothing", _change(smoothing)


def _change(change: Change | Unknown) -> str:
    if isinstance(change, Unknown):
        return f"unknown: {change.unknown}"
    if change.before == change.after:
        return f"{number(change.before)}, as it is"
    return f"{number(change.before)} to {number(change.after)}"


def _batchnorm(advice: Advice) -> str:
    norm = advice.batchnorm
    if norm.verdict == "not-used":
        return "the model has none: the batch may be split in any way"
    where = "" if norm.norm == "batch" else "if the model has it: "
    if isinstance(norm.samples_per_gpu, Unknown):
        return f"{where}give each GPU {norm.needs} samples or more"
    if norm.verdict == "ok":
        return f"{where}{count(norm.samples_per_gpu)} samples on each GPU are enough ({norm.needs} or more)"
    return (
        f"{where}{norm.samples_per_gpu} samples on each GPU are too few, under {norm.needs}: "
        "SyncBatchNorm over several GPUs, or GroupNorm; accumulation does not help"
    )


def _accuracy(advice: Advice) -> Iterator[tuple[str, str]]:
    if advice.ratio < 1:
        yield "accuracy", "no loss expected of a smaller batch; an epoch takes longer where it no longer fills the GPU"
    if advice.ratio > 1:
        gap = ", ".join(f"{point.top1_percent} % at {count(point.batch)}" for point in advice.accuracy_gap)
        rest = "with linear LR and warm-up none was lost up to 8,192; ViT and BERT are less sensitive"
        yield "accuracy", f"ResNet-50 on ImageNet, nothing else adapted: {gap}; {rest}"
        yield "accuracy", "a drop of over 2 points asks for a smaller batch, or for the regularisation above"
