"""Draws finished trainings from the logs that they left: loss and learning rate over steps, accuracy over epochs.

`python benchmarks/training_curves.py OUT.png NAME=LOGS_FOLDER ...`, each folder a job's `logs/` with its `metrics.csv`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def column(rows: list[dict[str, str]], name: str, over: str = "step") -> tuple[list[float], list[float]]:
    """Return a figure over another, where it was told."""
    told = [row for row in rows if row.get(name)]
    return [float(row[over]) for row in told], [float(row[name]) for row in told]


def main(arguments: list[str]) -> int:
    """Draw a row of three panels a training; return the exit code."""
    if len(arguments) <= 1:
        print(__doc__)
        return 0
    target, *named = arguments
    figure, panels = plt.subplots(len(named), 3, figsize=(12, 3.2 * len(named)), squeeze=False, layout="constrained")
    for row, argument in zip(panels, named, strict=True):
        name, _, folder = argument.partition("=")
        with Path(folder, "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        loss, rate, accuracy = row
        loss.plot(*column(rows, "loss"), color="0.6", label="training, running mean of the epoch")
        loss.plot(*column(rows, "train_loss"), "o-", label="training")
        loss.plot(*column(rows, "val_loss"), "s--", label="validation")
        loss.set(title=f"{name}: loss", xlabel="optimizer step", yscale="log")
        rate.plot(*column(rows, "learning_rate"), ".-")
        rate.set(title="learning rate", xlabel="optimizer step")
        epochs, reached = column(rows, "val_accuracy", "epoch")
        accuracy.plot(epochs, reached, "s-")
        best = max(reached)
        accuracy.annotate(f"{best:.4f}", (epochs[reached.index(best)], best), ha="right", va="bottom")
        accuracy.margins(y=0.15)
        accuracy.set_xticks(epochs)
        accuracy.set(title="validation accuracy", xlabel="epoch")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    figure.savefig(target, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
