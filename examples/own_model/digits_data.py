"""A LightningDataModule over 1,797 real images of handwritten digits, which ship with gpuplan: no download."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split


class DigitsData(pl.LightningDataModule):
    """Images [1, 8, 8] with values from 0 to 1, and the digit each shows."""

    num_classes = 10

    def __init__(self, val_share: float = 0.2, batch_size: int = 32) -> None:
        super().__init__()
        self.val_share = val_share
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Read the images and split them, the same way at every call."""
        del stage
        # Uncompressed numbers in NumPy's own format; a data set of yours lies beside this file or on S3.
        stored = (resources.files("gpuplan_job.data") / "digits.npz").read_bytes()
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            images = torch.from_numpy(arrays["images"]).float().unsqueeze(1) / 16
            digits = torch.from_numpy(arrays["labels"]).long()
        data = TensorDataset(images, digits)
        self.train_data, self.val_data = random_split(
            data, [1 - self.val_share, self.val_share], torch.Generator().manual_seed(0)
        )

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Return the training loader; under gpuplan batch size, order and workers are the plan's."""
        return DataLoader(self.train_data, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Return the validation loader."""
        return DataLoader(self.val_data, self.batch_size)
