"""The loggers of a training by their names in the job's input: CSV, TensorBoard, MLflow, Weights & Biases.

Called by `logged`. None of them may stop a training: one that is not installed, or fails, is left out from then on, and
said once. What a resumed training repeats is not logged twice.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lightning_fabric.loggers.logger import _DummyExperiment as Nothing
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from gpuplan_job.contract import LOGS_FOLDER
from gpuplan_job.csv_log import CsvLog

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpuplan_job.contract import JobInput, LoggerName

_SECONDS_TO_FLUSH = 10
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "WANDB_INIT_TIMEOUT": "30"}
"""A tracking server that does not answer must not hold a GPU up; who wants to wait longer sets them."""
_INSTALL = {
    "tensorboard": "pip install tensorboardX",
    "mlflow": "pip install 'gpuplan[mlflow]'",
    "wandb": "pip install 'gpuplan[wandb]'",
}


def build(job_input: JobInput, folder: Path, rank: int, say: Callable[[str], None]) -> list[Guarded]:
    """Return the loggers that a job's input names, each guarded; only rank 0's write, below `folder`/logs."""
    place = folder / LOGS_FOLDER
    makers = _makers(job_input, place) if rank == 0 else {}
    return [Guarded(name, makers.get(name), place, say) for name in dict.fromkeys(job_input.loggers)]


def _makers(job_input: JobInput, place: Path) -> dict[LoggerName, Callable[[int], Logger]]:
    """Return what makes each logger, for a training that goes on at an optimizer step."""
    title = f"{job_input.run_id}-{job_input.step}"

    def tensorboard(step: int) -> Logger:
        return TensorBoardLogger(
            place,
            name="",
            version="tensorboard",
            default_hp_metric=False,
            filename_suffix=f".{step}",  # the name has whole seconds alone, and a training may fail in its first
            purge_step=step + 1 if step else None,
            flush_secs=_SECONDS_TO_FLUSH,
        )

    def mlflow(step: int) -> Logger:
        kept = place / "mlflow-run-id"
        run_id = kept.read_text(encoding="utf-8") if step and kept.exists() else None
        server = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place / 'mlflow.db'}"
        logger = MLFlowLogger("gpuplan", run_name=title, tracking_uri=server, run_id=run_id)
        kept.write_text(str(logger.run_id), encoding="utf-8")
        return logger

    def wandb(step: int) -> Logger:
        # The same id takes the same run up again; W&B itself refuses steps that it has.
        resume = "allow" if step else None
        return WandbLogger(title, place, id=title, project=os.environ.get("WANDB_PROJECT", "gpuplan"), resume=resume)

    return {"csv": lambda step: CsvLog(place, step), "tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}


class Guarded(Logger):
    """A logger that begins with the training and whose failures end it, not the training; without `make` it is mute."""

    def __init__(
        self, name: LoggerName, make: Callable[[int], Logger] | None, place: Path, say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._name = name
        self._make = make
        self._place = place
        self._say = say
        self._logger: Logger | None = None
        self._waiting: list[dict[str, Any]] = []
        """Settings that came before the training began."""
        self._logged = -1
        """The newest step of an earlier process that cannot be taken back."""

    @property
    def name(self) -> str:
        """The name in the job's input."""
        return self._name

    @property
    def version(self) -> str:
        """There is but one a training."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of all loggers."""
        return str(self._place)

    @property
    def experiment(self) -> Any:  # noqa: ANN401 - each logger's own
        """The logger's own object, for a module that wants to log more than numbers; one that takes anything if mute.

        Lightning asks for it before the training begins, when nobody knows yet where it goes on.
        """
        return getattr(self._logger, "experiment", None) or Nothing()

    def begin(self, step: int) -> None:
        """Open the logger for a training that goes on at optimizer step `step`; it is opened once."""
        if self._logger is not None or self._make is None:
            return
        make, waiting = self._make, self._waiting
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)

        def open_() -> None:
            self._place.mkdir(parents=True, exist_ok=True)
            if step and self._step_file.exists():
                self._logged = int(self._step_file.read_text(encoding="utf-8"))
            self._logger = make(step)
            for params in waiting:
                self._logger.log_hyperparams(params)

        self._try(open_)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at an optimizer step, unless an earlier process logged that step and it cannot be taken back."""
        logger, at = self._logger, step or 0
        if logger is None or at <= self._logged:
            return

        def log() -> None:
            logger.log_metrics(dict(metrics), step=at)
            if self._name in {"mlflow", "wandb"}:
                self._step_file.write_text(str(at), encoding="utf-8")

        self._try(log)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object) -> None:
        """Log settings, at once or when the training begins."""
        del args, kwargs
        values = dict(params) if isinstance(params, dict) else vars(params)
        logger = self._logger
        if logger is None:
            self._waiting.append(values)
        else:
            self._try(lambda: logger.log_hyperparams(values))

    def save(self) -> None:
        """Write what is held back."""
        if (logger := self._logger) is not None:
            self._try(logger.save)

    def finalize(self, status: str) -> None:
        """End the logger: `status` is success or failed."""
        if (logger := self._logger) is not None:
            self._try(lambda: logger.finalize(status))

    @property
    def _step_file(self) -> Path:
        return self._place / f"{self._name}-step"

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a logger may raise whatever it likes, the training goes on
            self._logger = self._make = None
            missing = isinstance(error, ModuleNotFoundError)
            reason = f"is not installed: {_INSTALL[self._name]}" if missing else f"failed: {_first_line(error)}"
            self._say(f"logger {self._name} {reason}; the training goes on without it")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
