"""torchmetrics, whose metrics are imported when somebody asks for one.

Lightning imports the package for two classes. Its own `__init__` imports every metric there is, and with them scipy,
torchvision (which imports torch's compiler) and transformers, where these are installed: seconds of every start, for
nothing that a run here uses. So `torchmetrics` knows the two classes and its version, and becomes what it always was
when anything else of it is asked for; its submodules are imported as ever.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "torchmetrics"
CLASSES = {
    "check_forward_full_state_property": f"{NAME}.utilities",  # first, as these modules import each other
    "Metric": f"{NAME}.metric",
    "MetricCollection": f"{NAME}.collections",
}
"""What Lightning takes, and what has to be there before it -> where it is defined."""


class _OnDemand(ModuleType):
    """The package before anybody has asked for a metric."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what tools ask every module
            raise AttributeError(f"module {NAME!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        loader = self.__spec__.loader if self.__spec__ else None
        assert isinstance(loader, _Loader)
        loader.real.exec_module(self)
        return getattr(self, name)


class _Loader(Loader):
    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        known = {"__version__": metadata.version(NAME), "_logger": logging.getLogger(NAME)}
        module.__dict__.update(known)
        try:
            for name in CLASSES:
                module.__dict__[name] = getattr(import_module(CLASSES[name]), name)
        except (ImportError, AttributeError):  # a version that is laid out otherwise: whole, then
            for name in [name for name in sys.modules if name.startswith(f"{NAME}.")]:
                del sys.modules[name]
            self.real.exec_module(module)
        else:
            module.__class__ = _OnDemand


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname) if fullname == NAME else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def import_metrics_on_demand() -> None:
    """From now on, unless the package has been imported already. Once a process."""
    if NAME not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
