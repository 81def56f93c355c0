"""Packages that others import for a class or two, and that are imported whole when somebody asks for more.

    torchmetrics    Lightning takes two classes of it. Its own `__init__` imports every metric there is, and with them
                    scipy, torchvision and transformers, where these are installed
    torch._dynamo   torch's compiler. Lightning takes a class, to know a compiled module by; torch's optimisers and
                    FSDP2 call functions that mark a place for it. Who compiles nothing needs nothing else of it

Each takes seconds, for nothing that most runs use. So the package knows what is listed here, and becomes what it always
was when anything else of it is asked for.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

METRICS = "torchmetrics"
COMPILER = "torch._dynamo"
COLLECT = 10_000

METRIC_CLASSES = {
    "check_forward_full_state_property": f"{METRICS}.utilities",  # first, as these modules import each other
    "Metric": f"{METRICS}.metric",
    "MetricCollection": f"{METRICS}.collections",
}
"""What Lightning takes, and what has to be there before it -> where it is defined."""


def _some_metrics(module: ModuleType) -> dict[str, Any]:
    module.__dict__.update(__version__=metadata.version(METRICS), _logger=logging.getLogger(METRICS))
    return {name: getattr(import_module(place), name) for name, place in METRIC_CLASSES.items()}


class _Compiled(type):
    def __instancecheck__(cls, instance: object) -> bool:
        module = sys.modules[COMPILER]
        return not isinstance(module, _OnDemand) and isinstance(instance, module.OptimizedModule)


class OptimizedModule(metaclass=_Compiled):
    """Stands for `torch._dynamo.OptimizedModule`: nothing is one before there is a compiler."""


def _no_compiler(module: ModuleType) -> dict[str, Any]:
    plain: list[Any] = []

    def disable(fn: Any = None, recursive: bool = True, *, wrapping: bool = True, **options: Any) -> Any:
        if not wrapping:  # torch is about to call it, and keeps it for the next time
            plain.append(fn)
            return fn
        return sys.modules["torch"]._disable_dynamo(fn, recursive)  # asks again when it is called

    def forget() -> None:
        for fn in plain:
            vars(fn).pop("__dynamo_disable", None)

    return {
        "OptimizedModule": OptimizedModule,
        "graph_break": lambda *_: None,
        "disable_nested_graph_breaks": nullcontext,
        "disable": disable,
        "trace_rules": SimpleNamespace(clear_lru_cache=lambda: None),  # with each process group
        "_forget": forget,
    }


PACKAGES: dict[str, Callable[[ModuleType], dict[str, Any]]] = {METRICS: _some_metrics, COMPILER: _no_compiler}
"""Name -> what is known of it before it is imported whole."""


class _OnDemand(ModuleType):
    """A package before anybody has asked for more."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what tools ask every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _make_whole(self)
        return getattr(self, name)


def _make_whole(module: ModuleType) -> None:
    loader = module.__spec__.loader if module.__spec__ else None
    assert isinstance(loader, _Loader)
    module.__class__ = ModuleType
    module.__dict__.get("_forget", lambda: None)()
    for name in loader.known:
        del module.__dict__[name]
    loader.real.exec_module(module)


class _Loader(Loader):
    def __init__(self, real: Loader) -> None:
        self.real = real
        self.known: tuple[str, ...] = ()

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        try:
            known = PACKAGES[name](module)
        except (ImportError, AttributeError):  # a version that is laid out otherwise: whole, then
            for below in [below for below in sys.modules if below.startswith(f"{name}.")]:
                del sys.modules[below]
            self.real.exec_module(module)
        else:
            module.__dict__.update(known)
            self.known = tuple(known)
            module.__class__ = _OnDemand


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{COMPILER}.") and isinstance(whole := sys.modules[COMPILER], _OnDemand):
            _make_whole(whole)  # its modules import each other in an order of their own
        spec = PathFinder.find_spec(fullname, path) if fullname in PACKAGES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def import_on_demand() -> None:
    """From now on, what has not been imported already. Once a process.

    What is imported makes a million objects that stay. A collector that looks for garbage among them whenever 700 are
    new takes a sixth of the time; so it does at every `COLLECT`.
    """
    gc.set_threshold(COLLECT, *gc.get_threshold()[1:])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
