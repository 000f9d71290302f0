"""Networks that published timings name and torchvision does not have, for `trace` as `subjects:NAME`.

Imported only where benchmarks/time_traces.py rebuilds its table. `timm_X` is timm's X (release 0.6.13, on PYTHONPATH);
the others are rebuilt from the layer sizes of NVIDIA's DeepLearningExamples. Weights mean nothing here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

_CLASSES_COCO = 81


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """Return a constructor without arguments of the timm model that `timm_NAME` names."""
    if not name.startswith("timm_"):
        raise AttributeError(name)
    timm: Any = importlib.import_module("timm")
    return lambda: timm.create_model(name.removeprefix("timm_"))


class SSD300(nn.Module):
    """SSD300 on ResNet-50 as in DeepLearningExamples/PyTorch/Detection/SSD."""

    def __init__(self) -> None:
        """Build the backbone up to its third stage, the extra layers and the heads."""
        super().__init__()
        backbone = torchvision.models.resnet50(weights=None)
        self.features = nn.Sequential(*list(backbone.children())[:7])
        first: Any = self.features[-1][0]  # type: ignore[index] # the third stage is a Sequential
        first.conv1.stride = first.conv2.stride = first.downsample[0].stride = (1, 1)
        sizes = [1024, 512, 512, 256, 256, 256]
        middle = [256, 256, 128, 128, 128]
        self.extra = nn.ModuleList(
            _extra(sizes[i], middle[i], sizes[i + 1], strided=i < 3)  # noqa: PLR2004 - the first three halve the side
            for i in range(len(middle))
        )
        boxes = [4, 6, 6, 6, 4, 4]
        self.places = nn.ModuleList(nn.Conv2d(s, b * 4, 3, padding=1) for s, b in zip(sizes, boxes, strict=True))
        self.labels = nn.ModuleList(
            nn.Conv2d(s, b * _CLASSES_COCO, 3, padding=1) for s, b in zip(sizes, boxes, strict=True)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return a loss over all boxes; the mining of hard negatives is left out."""
        maps = [self.features(batch[0])]
        for layers in self.extra:
            maps.append(layers(maps[-1]))
        places = [head(x).view(x.shape[0], 4, -1) for head, x in zip(self.places, maps, strict=True)]
        labels = [head(x).view(x.shape[0], _CLASSES_COCO, -1) for head, x in zip(self.labels, maps, strict=True)]
        where, what = torch.cat(places, 2), torch.cat(labels, 2)
        target = torch.zeros(what.shape[0], what.shape[2], dtype=torch.long, device=what.device)
        return functional.smooth_l1_loss(where, torch.zeros_like(where)) + functional.cross_entropy(what, target)


def _extra(given: int, middle: int, made: int, *, strided: bool) -> nn.Sequential:
    second = nn.Conv2d(middle, made, 3, stride=2 if strided else 1, padding=1 if strided else 0, bias=False)
    return nn.Sequential(
        nn.Conv2d(given, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        second,
        nn.BatchNorm2d(made),
        nn.ReLU(inplace=True),
    )


class Bert(nn.Module):
    """BERT for question answering, as in DeepLearningExamples/PyTorch/LanguageModeling/BERT: attention is not fused."""

    def __init__(self, width: int, layers: int) -> None:
        """Build it for sequences of up to 512 tokens."""
        super().__init__()
        self.words, self.places, self.kinds = (
            nn.Embedding(30522, width),
            nn.Embedding(512, width),
            nn.Embedding(2, width),
        )
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.1)
        self.layers = nn.ModuleList(_BertLayer(width) for _ in range(layers))
        self.answer = nn.Linear(width, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss of the answer's first and last token."""
        tokens, _ = batch
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.words(tokens) + self.places(places) + self.kinds(torch.zeros_like(tokens))
        hidden = self.dropout(self.norm(hidden))
        mask = torch.zeros(tokens.shape[0], 1, 1, tokens.shape[1], dtype=hidden.dtype, device=tokens.device)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        first, last = self.answer(hidden).unbind(-1)
        target = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
        return functional.cross_entropy(first, target) + functional.cross_entropy(last, target)


class _BertLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(0.1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            layer(hidden).unflatten(-1, (-1, 64)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query, key.transpose(-1, -2)) / 8.0 + mask
        weights = self.dropout(functional.softmax(scores, -1))
        mixed = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        hidden = self.norm1(self.dropout(self.out(mixed)) + hidden)
        grown = functional.gelu(self.up(hidden))
        normed: Tensor = self.norm2(self.dropout(self.down(grown)) + hidden)
        return normed


def bert_base() -> nn.Module:
    """Return BERT-base in fp32."""
    return Bert(768, 12)


def bert_large() -> nn.Module:
    """Return BERT-large in fp32."""
    return Bert(1024, 24)


def bert_base_half() -> nn.Module:
    """Return BERT-base with weights in half precision, which apex's O2 trains with."""
    return Bert(768, 12).half()
