"""Programs of other projects, run by their own Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FOREIGN = Path(__file__).parent / "foreign"
ENVIRONMENTS = Path.home() / ".cache" / "nemo_bt" / "interop"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}


def python_of(environment: str) -> Path:
    """The Python of an environment of `requirements`; that of `nemo` is this one, with NeMo as it is installed here."""
    if environment == "nemo":
        return Path(sys.executable)
    python = ENVIRONMENTS / environment / "bin" / "python"
    assert python.is_file(), f"{python} is not there: make test-interop makes it"
    return python


def run(environment: str, script: str, *argv: Any, folder: Path) -> str:
    """Run a script of `foreign` in a folder, and give what it printed."""
    command = [str(python_of(environment)), str(FOREIGN / f"{script}.py"), *map(str, argv)]
    env = os.environ | _OFFLINE | {"HF_HOME": str(folder / "hub")}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def ask(environment: str, script: str, task: dict[str, Any], folder: Path) -> Any:
    """Run a script of `foreign` on a task, and give its answer; both are JSON."""
    given, answer = folder / "task.json", folder / "answer.json"
    given.write_text(json.dumps(task))
    answer.unlink(missing_ok=True)
    run(environment, script, given, answer, folder=folder)
    return json.loads(answer.read_text())
