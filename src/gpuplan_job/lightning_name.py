"""Lets code that says `import lightning` find PyTorch Lightning, which is the same under its other name.

Called before a user's own code is imported. The two packages' classes do not know each other, and a job has one of
them: without this, a module that was written for the other could not be trained. Standard library only.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_NAME = "lightning"
_OTHER = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric", _NAME: "pytorch_lightning"}
"""The longer names first: what stands below a name stands below the other."""


class _OtherName(MetaPathFinder, Loader):
    """Answers for `lightning` and all below it with the modules of `pytorch_lightning` and `lightning_fabric`."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for the names that have another."""
        del path, target
        if fullname != _NAME and not fullname.startswith(f"{_NAME}."):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that has the other name.

        Raises:
            ImportError: there is none.
        """
        name = next(name for name in _OTHER if spec.name == name or spec.name.startswith(f"{name}."))
        module = importlib.import_module(_OTHER[name] + spec.name.removeprefix(name))
        # The import system now writes its spec into the module, which has one of its own.
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing but undo: the module has run under its own name."""
        name = module.__spec__.name if module.__spec__ else ""
        module.__spec__ = self._specs.pop(name, module.__spec__)


def give_other_name() -> None:
    """Let this process's later `import lightning` mean PyTorch Lightning; one that came before stays as it is."""
    if _NAME not in sys.modules and not any(isinstance(finder, _OtherName) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OtherName())
