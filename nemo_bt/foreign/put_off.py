"""Packages that others import and this program does not use: each is loaded when something asks for it.

Half of the time of NeMo's import goes into the `__init__.py` of packages of which training needs one module, or none.
These files are put off: the first attribute that is not there runs them. So nothing is missing. Six functions that
others take at their import are stand-ins, which call the real ones when they are needed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Package(NamedTuple):
    """How a package is put off.

    Args:
        has_used_modules: whether importing a module below it leaves its `__init__.py` alone. Such a module must not
            need it; otherwise it is run first, as always.
        known: names of it for which it need not run, and what gives their values.
    """

    has_used_modules: bool = False
    known: Mapping[str, Callable[[], Any]] = {}


def _of(module: str, name: str) -> Callable[[], Any]:
    return lambda: getattr(import_module(module), name)


def when_called(module: str, name: str) -> Callable[[], Any]:
    """Give what gives a function that loads its module when it is called."""

    def called(*args: Any, **kwargs: Any) -> Any:
        found = import_module(module)
        if isinstance(found, _PutOff):
            _load(found)
        return getattr(found, name)(*args, **kwargs)

    return lambda: called


def _functions(module: str, *names: str) -> dict[str, Package]:
    return {module: Package(known={name: when_called(module, name) for name in names})}


def _with_modelopt(module: str, name: str, has_state: Callable[..., bool]) -> Callable[[], Any]:
    """Give a function of NeMo's that asks for what ModelOpt did to a model: nothing, as long as it has not run.

    Args:
        has_state: whether ModelOpt is needed for what the function is given.
    """
    real = when_called(module, name)()

    def called(*args: Any, **kwargs: Any) -> Any:
        is_needed = not is_put_off("modelopt.torch.opt") or has_state(*args, **kwargs)
        return real(*args, **kwargs) if is_needed else None

    return lambda: called


def _saved_state(model: Any, path: Any = None, trainer: Any = None) -> bool:
    path = path or (trainer and (getattr(trainer.strategy.restore_config, "path", None) or trainer.ckpt_path))
    return bool(path) and any((Path(path) / below / "modelopt_state").exists() for below in ("", "weights"))


_MODELOPT = "nemo.collections.llm.modelopt"
_OF_STATE = {
    "save_modelopt_state": _with_modelopt(f"{_MODELOPT}.model_utils", "save_modelopt_state", lambda *_: False),
    "restore_modelopt_state": _with_modelopt(f"{_MODELOPT}.model_utils", "restore_modelopt_state", _saved_state),
}
_SHAPES = "get_tensor_shapes_adjust_fn_for_distillation"
_OF_SHAPES = {_SHAPES: _with_modelopt(f"{_MODELOPT}.distill.utils", _SHAPES, lambda *_: False)}
_OF_TORCHMETRICS: dict[str, Callable[[], Any]] = {
    "Metric": _of("torchmetrics.utilities.checks", "Metric"),
    "MetricCollection": _of("torchmetrics.collections", "MetricCollection"),
    "__version__": lambda: version("torchmetrics"),
    "_logger": lambda: logging.getLogger("torchmetrics"),
}
PUT_OFF = {
    # recipes, data and models of all families, and nemo_run; needed are gpt.model.base, a family's class, peft.lora
    "nemo.collections.llm": Package(has_used_modules=True),
    "nemo.collections.llm.gpt.model": Package(has_used_modules=True),
    "nemo.collections.llm.peft": Package(has_used_modules=True),
    _MODELOPT: Package(has_used_modules=True),
    f"{_MODELOPT}.model_utils": Package(known=_OF_STATE),
    f"{_MODELOPT}.distill": Package(has_used_modules=True),
    f"{_MODELOPT}.distill.utils": Package(known=_OF_SHAPES),
    # starts jobs on clusters; families' files name its classes of settings
    "nemo_run": Package(
        has_used_modules=True,
        known={name: _of("nemo_run.config", name) for name in ("Config", "Partial")},
    ),
    # quantisation and distillation, with trl and datasets; NeMo asks whether it is there
    "modelopt.torch": Package(),
    "modelopt.torch.opt": Package(),
    # a hundred metrics, of sounds and images too, with scipy and transformers; Lightning needs the classes of them all
    "torchmetrics": Package(has_used_modules=True, known=_OF_TORCHMETRICS),
    # a threshold of transformers' assisted generation, with scipy
    "sklearn": Package(),
    **_functions("sklearn.metrics", "roc_curve"),
    # a tool that shows what a model computes, with torch.distributed.tensor and sympy; and masks, with torch._dynamo,
    # which whoever loads a model's class asks for, and a tokenizer does not
    **_functions("transformers.model_debugging_utils", "model_addition_debugger_context"),
    **_functions("transformers.masking_utils", "create_masks_for_generate"),
    "pandas": Package(),  # for the table of a tokenizer of molecules
    "wandb": Package(),  # Megatron's timers can write to it; a run that does loads it
}
_OF_NONE = ("__path__", "__wrapped__", "__warningregistry__", "__bases__")
"""What others ask every module for, and these do not have."""


@contextmanager
def put_off() -> Iterator[None]:
    """Put these packages off as far as they are imported for the first time in the block."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def is_put_off(name: str) -> bool:
    """Tell whether a package was imported and its `__init__.py` has not run."""
    return isinstance(sys.modules.get(name), _PutOff)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Find a package that is put off; None leaves a module to the others."""
        if fullname not in PUT_OFF:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            spec.loader = _PuttingOff(spec.loader, self)
        return spec


class _PuttingOff(Loader):
    def __init__(self, loader: Any, finder: _Finder) -> None:
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self.loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _PutOff
        if PUT_OFF[module.__name__].has_used_modules or not hasattr(module, "__path__"):
            return
        for name in PUT_OFF:
            if name.rpartition(".")[0] == module.__name__:
                spec = self.finder.find_spec(name, module.__path__)
                sys.modules[name] = below = module_from_spec(spec)
                self.exec_module(below)
                setattr(module, name.rpartition(".")[2], below)
        module.__path__ = _Path(module)


class _Path(list[str]):
    """Where modules below a package are, for which it is loaded first."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module.__path__)
        self.module = module

    def __iter__(self) -> Iterator[str]:
        _load(self.module)
        for below in [sys.modules[name] for name in sys.modules if name.startswith(f"{self.module.__name__}.")]:
            if below.__spec__ and not isinstance(below.__spec__.loader, _PuttingOff):
                below.__spec__.loader = _Loaded(below.__spec__.loader)
        return super().__iter__()


class _Loaded(Loader):
    """Of a module that its package has imported itself: the import that was waiting for that takes the same one."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__
        module.__spec__.loader = self.loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _PutOff(ModuleType):
    """A package whose `__init__.py` has not run."""

    def __getattr__(self, name: str) -> Any:
        package = PUT_OFF[self.__name__]
        if name in _OF_NONE:
            raise AttributeError(name)
        if known := package.known.get(name):
            return known()
        if package.has_used_modules and PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__):
            return import_module(f"{self.__name__}.{name}")
        _load(self)
        return getattr(self, name)


def _load(module: ModuleType) -> None:
    """Run what was put off, of the packages above it first."""
    above = sys.modules.get(module.__name__.rpartition(".")[0])
    if isinstance(above, _PutOff):
        _load(above)
    if not isinstance(module, _PutOff):  # what is above needed it
        return
    module.__class__ = ModuleType  # type: ignore[assignment]
    spec = module.__spec__
    assert spec
    assert isinstance(spec.loader, _PuttingOff)
    if spec.submodule_search_locations is not None:
        module.__path__ = spec.submodule_search_locations
    spec.loader = module.__loader__ = spec.loader.loader
    spec.loader.exec_module(module)
