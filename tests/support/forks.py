"""A process that has imported NeMo, of which the commands of tests are forks: a second each, in the place of six.

python -m tests.support.forks      reads requests as lines of JSON, and answers each with one
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_bt.launching.local import end_with
from tests.support.forked_command import Forked

_READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "PYTHON", "LD_", "MALLOC_", "TORCH_", "OMP_", "CUDA_")
"""Variables that programs read when they are imported begin with these."""
_NOT_ON_A_CPU = ("plan", "help", "data", "status", "fetch")
"""Commands that look at a GPU's program, or import little."""
_PARENT = "NEMO_BT_TEST_PARENT"
_STACKS_S = 60

Result = subprocess.CompletedProcess[str]


class Forks:
    """Runs commands as `subprocess.run([sys.executable, "-m", ...])` would.

    The first of each kind is a start of its own: what a start alone shows is seen there.
    """

    def __init__(self) -> None:
        self.server: subprocess.Popen[str] | None = None
        self.env: dict[str, str] = {}
        self.started: set[str] = set()

    def run(
        self, commands: Sequence[Sequence[str]], envs: Sequence[dict[str, str]], folder: Path, timeout_s: float
    ) -> Result | None:
        """Run commands at once, each a module and its arguments; None where they have to start by themselves.

        When one fails, the others are ended. After `timeout_s` each prints its stacks.

        Args:
            envs: the environment of each, whole.
            folder: what they work in.
        """
        kind = " ".join(commands[0][: 2 if commands[0][0] == "nemo_bt" else 1])
        is_first = kind not in self.started
        self.started.add(kind)
        if is_first or (commands[0][1:2] and commands[0][1] in _NOT_ON_A_CPU):
            return None
        server = self._server()
        if any(_import_variables(env) != _import_variables(self.env) for env in envs):
            return None
        with tempfile.TemporaryDirectory(prefix="nemo_bt-forks-") as name:
            outputs = [Path(name) / one for one in ("stdout", "stderr")]
            asked = {"commands": commands, "envs": envs, "folder": str(folder), "timeout_s": timeout_s}
            assert server.stdin
            assert server.stdout
            server.stdin.write(json.dumps(asked | {"outputs": [str(path) for path in outputs]}) + "\n")
            server.stdin.flush()
            line = server.stdout.readline()
            assert line, f"the process of forks ended: {server.poll()}"
            answer = json.loads(line)
            stdout, stderr = (path.read_text(errors="replace") if path.exists() else "" for path in outputs)
        if answer["is_late"]:
            stderr += f"not done after {timeout_s} s: the stacks of its threads are those of each process then\n"
        return subprocess.CompletedProcess(list(commands[0]), answer["status"], stdout, stderr)

    def _server(self) -> subprocess.Popen[str]:
        if self.server is None:
            self.env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", _PARENT: str(os.getpid())}
            command = [sys.executable, "-m", "tests.support.forks"]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.server = subprocess.Popen(command, env=self.env, text=True, cwd=_REPO, **pipes)
            assert self.server.stdin
            atexit.register(self.server.stdin.close)
        return self.server


_REPO = Path(__file__).parents[2]


def _import_variables(env: dict[str, str]) -> dict[str, str]:
    own = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": ""}
    return {name: value for name, value in (own | env).items() if name.startswith(_READ_AT_IMPORT)}


def serve() -> None:
    end_with(int(os.environ.pop(_PARENT)))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    _import_all()
    requests = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for line in requests:
        answers.write(json.dumps(_answer(**json.loads(line))) + "\n")
        answers.flush()


def _import_all() -> None:
    import gc

    from nemo_bt.training.nemo_import import import_nemo

    import_nemo(on_gpu=False)
    for name in (
        *("torch.distributed.elastic.multiprocessing", "nemo_bt.training.train", "nemo_bt.scoring.command"),
        *("nemo_bt.evaluation.command", "nemo_bt.reporting.command", "nemo_bt.scoring.scorer", "transformers"),
        *("nemo_bt.converters.hf_to_nemo", "nemo_bt.converters.nemo_to_hf", "nemo_bt.data.store.load"),
    ):
        __import__(name)
    gc.collect()
    gc.freeze()


def _answer(
    commands: list[list[str]], envs: list[dict[str, str]], folder: str, timeout_s: float, outputs: list[str]
) -> dict[str, Any]:
    paths = [Path(path) for path in outputs]
    running = [Forked(one, env, *paths, folder=Path(folder)) for one, env in zip(commands, envs, strict=True)]
    deadline_s = time.monotonic() + timeout_s
    is_late = False
    while any(one.poll() is None for one in running):
        if any(one.poll() for one in running) and len(running) > 1:
            _end(running, signal.SIGTERM)
        if not is_late and time.monotonic() > deadline_s:
            is_late = True
            deadline_s = time.monotonic() + _STACKS_S
            _end(running, signal.SIGABRT)
        elif is_late and time.monotonic() > deadline_s:
            _end(running, signal.SIGKILL)
        time.sleep(0.01)
    return {"status": next((one.returncode for one in running if one.returncode), 0), "is_late": is_late}


def _end(running: Sequence[Forked], number: signal.Signals) -> None:
    for one in running:
        for process in one.family():
            process.send_signal(number)


if __name__ == "__main__":
    serve()
