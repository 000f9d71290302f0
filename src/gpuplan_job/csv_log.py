"""A training's figures as a CSV file that grows a row at a time, and that a resumed training continues without gaps.

Called by `loggers`. Lightning's own CSV logger deletes what an earlier process wrote; this one drops the rows after the
checkpoint that the training went on from, and appends.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import Logger

from gpuplan_job.atomic import write_atomic
from gpuplan_job.document import canonical_json

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from pathlib import Path

METRICS_FILE = "metrics.csv"
SETTINGS_FILE = "settings.json"
_STEP = "step"
_COLUMNS = ("step", "epoch", "loss", "learning_rate", "samples_per_second", "train_loss", "val_loss", "val_accuracy")


class CsvLog(Logger):
    """Writes `metrics.csv`, a row a call; what a row does not know is left empty. A new name is a new column."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on at optimizer step `step`; 0 starts anew.

        Raises:
            OSError: the folder cannot be written.
        """
        super().__init__()
        self.folder = folder
        self.path = folder / METRICS_FILE
        folder.mkdir(parents=True, exist_ok=True)
        self._columns, rows = self._read()
        self._rewrite([row for row in rows if int(row[_STEP]) <= step] if step else [])

    @property
    def name(self) -> str:
        """The logger's name."""
        return "csv"

    @property
    def version(self) -> str:
        """There is but one."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row.

        Raises:
            OSError: the disk does not take it.
        """
        new = [name for name in metrics if name not in self._columns]
        if new:
            self._columns, rows = [*self._columns, *new], self._read()[1]
            self._rewrite(rows)
        row = {_STEP: str(step or 0), **{name: repr(value) for name, value in metrics.items() if name != _STEP}}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            self._writer(file).writerow(row)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object) -> None:
        """Write the settings beside the rows.

        Raises:
            OSError: the disk does not take them.
        """
        del args, kwargs
        values = params if isinstance(params, dict) else vars(params)
        plain = {name: value if isinstance(value, int | float | bool) else str(value) for name, value in values.items()}
        write_atomic(self.folder / SETTINGS_FILE, canonical_json(plain))

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Return columns and whole rows; one that a kill cut off is none."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return list(_COLUMNS), []
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        columns = list(reader.fieldnames or _COLUMNS)
        return columns, [row for row in reader if str(row.get(_STEP)).isdigit() and None not in row.values()]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = self._writer(text)
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, text.getvalue())

    def _writer(self, file: io.TextIOBase | io.StringIO) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
