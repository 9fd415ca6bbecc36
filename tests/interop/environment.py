"""Programs of other projects, run by their own Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

FOREIGN = Path(__file__).parent / "foreign"
ENVIRONMENTS = Path.home() / ".cache" / "nemo_bt" / "interop"


def python_of(environment: str) -> Path:
    """The Python of an environment of `requirements`."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    assert python.is_file(), f"{python} is not there: make test-interop makes it"
    return python


def ask(environment: str, script: str, task: dict[str, Any], folder: Path) -> Any:
    """Run a script of `foreign` on a task, and give its answer; both are JSON."""
    given, answer = folder / "task.json", folder / "answer.json"
    given.write_text(json.dumps(task))
    answer.unlink(missing_ok=True)
    command = [str(python_of(environment)), str(FOREIGN / f"{script}.py"), str(given), str(answer)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(answer.read_text())
