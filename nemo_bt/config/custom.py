"""Functions and classes of one's own, named by file: settings and checkpoints keep the two texts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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
        raise UserError(f"{key}.path: expected a Python file with {name}, got {path}.")
    module = ModuleType(f"nemo_bt_custom_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    # From the source itself: Python's own cache of compiled files overlooks a change within a second.
    exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    if not callable(vars(module).get(name)):
        raise UserError(f"{key}.name: no class {name} in {path}, nor a function.")
    return vars(module)[name]
