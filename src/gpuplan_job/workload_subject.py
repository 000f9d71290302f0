"""What a job trains and on what, built from its workload: gpuplan's own kinds, or code of the user's.

Called by `train`, `lr_find` and whatever else measures a workload. Networks are made anew at each call, their weights
drawn from torch's global seed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from gpuplan_job import data, data_check, model, own, own_data, own_description, own_model
from gpuplan_job.loaders import DataSets

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from gpuplan_job.contract import DataDescription, JobInput, WorkloadSpec
    from gpuplan_job.data_check import DataCheck


class WorkloadSubject:
    """The data sets of a workload, loaded when it is made, and fresh networks for them."""

    def __init__(self, workload: WorkloadSpec, folder: Path) -> None:
        """Load the data; `folder` is the job's, in which one process of a machine prepares them for all.

        Raises:
            JobError, DataError: they cannot be had.
        """
        self._workload = workload
        self._own: own_data.OwnData | None = None
        if own.is_own(workload.data):
            self._own = own_data.load(workload.data, workload.data_args, folder)
            made = self._own
            self.sets = DataSets(made.train, made.val, made.train_collate, made.val_collate)
        else:
            self._described = data.describe(workload.data)  # before `load`, which takes its listing
            self.sets = DataSets(*data.load(workload.data, workload.image_size))

    def data_check(self, job_input: JobInput, folder: Path, *, of_all: bool) -> DataCheck:
        """Start the look at the samples, or do nothing where they are the user's own: only they know what is bad.

        With `of_all` every sample is looked at while the job goes on, but where each would be a request to S3.

        Raises:
            DataError: a label is of no class, or a class is not trained on.
        """
        if self._own is not None:
            return data_check.DataCheck()
        spec = self._workload.data
        near = data.s3_location(spec) is None or not data.streams(spec)
        sets = self.sets.train, self.sets.val
        return data_check.start(sets, self._described, (folder, job_input), everything=of_all and near)

    def network(self) -> nn.Module:
        """Return a network, or a LightningModule, with fresh weights.

        Raises:
            JobError: it cannot be constructed, or not for these data.
        """
        workload = self._workload
        if own.is_own(workload.model):
            return own_model.build(workload.model, workload.model_args)
        return model.build(workload.model, self.description, workload.image_size)

    @cached_property
    def description(self) -> DataDescription:
        """What a network of torchvision's is fitted to."""
        if self._own is None:
            return self._described
        return own_description.describe(self._workload.data, self._own)
