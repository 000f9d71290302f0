"""Models of timm by name, for traces of its published RTX 3090 runs: `timm_subjects:resnet50d`.

Named in trace requests; called by the tracer, without arguments, where timm 0.6.7 is installed, the release of those
runs: later ones use fused attention, which keeps less. Nothing is downloaded.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a factory of a model, whose type only timm knows
    """Return the factory of a model; a leading underscore is no model of timm's.

    Raises:
        AttributeError: the name is private.
    """
    if name.startswith("_"):
        raise AttributeError(name)
    return partial(_create, name)


def _create(name: str) -> Any:  # noqa: ANN401 - as above
    import timm  # type: ignore[import-not-found,unused-ignore] # installed for tracing only

    return timm.create_model(name)
