"""Functions and classes of one's own, named by file: settings and checkpoints keep the two texts."""

from __future__ import annotations

import hashlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from nemo_bt.config.loss import CustomFunction
from nemo_bt.errors import UserError


def load_object(path: str | None, name: str, key: str) -> Any:
    """Run a Python file and give what it calls `name`.

    Args:
        key: names both in the settings, for messages.

    Raises:
        UserError: there is no such file, or nothing in it of that name. What the file itself raises is left as it is.
    """
    file = Path(str(path))
    if path is None or file.suffix != ".py" or not file.is_file():
        raise UserError(f"{key}.path: expected a Python file with {name}, got {path}. One from Python is given again.")
    module = ModuleType(f"nemo_bt_custom_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    # From the source itself: Python's own cache of compiled files overlooks a change within a second.
    try:
        code = compile(file.read_bytes(), str(file), "exec")
    except SyntaxError as error:
        raise UserError(f"{key}.path: {path}, line {error.lineno}: {error.msg}.") from error
    exec(code, vars(module))
    if not callable(vars(module).get(name)):
        raise UserError(f"{key}.name: no class {name} in {path}, nor a function.")
    return vars(module)[name]


def describe(function: Any) -> CustomFunction:
    """Name a function from Python: by file, where that gives it again; else by a digest of its own text.

    A script that runs is not named: a command that loads the function would run the script once more.
    """
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = vars(sys.modules.get(function.__module__, sys))
    path = module.get("__file__") or ""
    if function.__module__ != "__main__" and module.get(name) is function and path.endswith(".py"):
        return CustomFunction(path=path, name=name)
    text = b""
    if inspect.isfunction(function) and not function.__closure__:
        with suppress(OSError):
            text = inspect.getsource(function).encode()
    return CustomFunction(name=name, source=hashlib.sha256(text).hexdigest() if text else "")
