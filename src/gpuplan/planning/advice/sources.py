"""Whom the advice on batch sizes cites, and for what. Read by `advice`; docs/advice.md says where they disagree."""

from __future__ import annotations

from gpuplan.core.frozen import Frozen


class Source(Frozen):
    """One publication and what is taken from it."""

    name: str
    """As it is cited: authors and year."""
    title: str
    where: str
    says: str


GOYAL = Source(
    name="Goyal et al. 2017",
    title="Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    where="arXiv:1706.02677",
    says="SGD: LR x k with a gradual warm-up of 5 epochs held ResNet-50's accuracy up to a global batch of 8,192",
)
HOFFER = Source(
    name="Hoffer et al. 2017",
    title="Train longer, generalize better: closing the generalization gap in large batch training",
    where="arXiv:1705.08741",
    says="LR x sqrt(k); the gap comes from too few updates, not from the batch; statistics over small ghost batches",
)
MCCANDLISH = Source(
    name="McCandlish et al. 2018",
    title="An Empirical Model of Large-Batch Training",
    where="arXiv:1812.06162",
    says="the gradient noise scale tells how far a larger batch buys a larger LR and fewer steps",
)
SMITH = Source(
    name="Smith 2018",
    title="A disciplined approach to neural network hyper-parameters: Part 1",
    where="arXiv:1803.09820",
    says="LR range test and the one-cycle schedule, in which the LR rises first",
)
MALLADI = Source(
    name="Malladi et al. 2022",
    title="On the SDEs and Scaling Rules for Adaptive Gradient Algorithms",
    where="arXiv:2205.10287",
    says="Adam: LR x sqrt(k)",
)
WANG = Source(
    name="Wang and Aitchison 2024",
    title="How to set AdamW's weight decay as you scale model and dataset size",
    where="arXiv:2405.13698",
    says="what holds over sizes is LR x weight decay x steps an epoch",
)
YOU = Source(
    name="You et al. 2020",
    title="Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    where="arXiv:1904.00962",
    says="LAMB, and LARS before it: a step size of its own for each layer where batches pass 8,192",
)
WU = Source(
    name="Wu and He 2018",
    title="Group Normalization",
    where="arXiv:1803.08494",
    says="BatchNorm's error grows as samples a GPU become few; GroupNorm does not depend on them",
)
KESKAR = Source(
    name="Keskar et al. 2017",
    title="On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima",
    where="arXiv:1609.04836",
    says="large batches alone generalise worse",
)
SZEGEDY = Source(
    name="Szegedy et al. 2016",
    title="Rethinking the Inception Architecture for Computer Vision",
    where="arXiv:1512.00567",
    says="label smoothing 0.1",
)
DEVLIN = Source(
    name="Devlin et al. 2019",
    title="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    where="arXiv:1810.04805",
    says="fine-tuning at batch 16 or 32 with LR 2e-5 to 5e-5, after pre-training with 1e-4",
)


class Accuracy(Frozen):
    """ResNet-50's top-1 accuracy on ImageNet at one global batch."""

    batch: int
    top1_percent: float


GAP = (
    Accuracy(batch=256, top1_percent=76.0),
    Accuracy(batch=1024, top1_percent=74.8),
    Accuracy(batch=4096, top1_percent=72.0),
)
"""Where nothing but the batch changes, as guides quote it; see docs/advice.md on its standing."""

HOLDS = {
    "none": "optimizer steps are fixed, not epochs; or both batches are far above the noise scale",
    "sqrt": f"moderate changes ({HOFFER.name}); Adam ({MALLADI.name})",
    "linear": f"SGD with warm-up, global batch up to 8,192 ({GOYAL.name})",
    "noise-scale": f"measured: linear far below the noise scale, none far above ({MCCANDLISH.name})",
}
"""Where a transfer policy is right; one that is not named here speaks for itself through its note."""
