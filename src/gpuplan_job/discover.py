"""Choices are the files in a folder: profiles aside, every plug-in point lists and loads itself here.

Called by both packages for rules, transfer policies, data kinds, pipelines and backends. It must not import a
choice before it is asked for by name, so that listing stays cheap.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def names(package: ModuleType) -> list[str]:
    """Return the choices a package offers, sorted: file `lr_then_train.py` is the choice `lr-then-train`.

    Files whose name starts with `_`, and `base`, are the folder's own furniture.
    """
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_") and name != "base")


def load(package: ModuleType, name: str) -> ModuleType:
    """Import the choice `name` of a package.

    Raises:
        LookupError: the package has no such file; the message lists what it has.
    """
    choices = names(package)
    if name not in choices:
        raise LookupError(f"{name!r} is not one of {', '.join(choices)}")
    return importlib.import_module(f"{package.__name__}.{name.replace('-', '_')}")
