"""The library of the device: compiled once for each build of torch, loaded before torch is imported.

torch is only looked at, not imported: its first import decides which devices there are.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from nemo_bt.errors import UserError

SOURCE = Path(__file__).with_name("device.cpp")
_OPTIONS = ("-O1", "-shared", "-fPIC", "-std=c++20")
_INCLUDED = ("include", "include/torch/csrc/api/include")
_LINKED = ("torch_cpu", "c10")


def cache_folder() -> Path:
    """Give the folder that keeps what is built and fetched: $NEMO_BT_CACHE/phantom, else ~/.cache/nemo_bt/phantom."""
    return Path(os.environ.get("NEMO_BT_CACHE") or "~/.cache/nemo_bt").expanduser() / "phantom"


def library(folder: Path) -> Path:
    """Give the device's library for the torch that is installed; it is compiled where `folder` has none yet.

    Raises:
        UserError: torch is built for GPUs, or g++ or torch's headers are missing, or it does not compile.
    """
    torch = _torch_folder()
    version = runpy.run_path(str(torch / "version.py"))
    if (torch / "lib" / "libtorch_cuda.so").exists():
        raise UserError(
            f"a trace needs torch built for CPUs, got {version['__version__']} for CUDA {version['cuda']}, which has a "
            "device of its own. Install one beside it: python -m venv trace && trace/bin/pip install nemo_bt torch "
            "--extra-index-url https://download.pytorch.org/whl/cpu"
        )
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    built = folder / f"torch-{version['__version__']}-{digest}" / "libphantom.so"
    if not built.exists():
        _compile(torch, built)
    return built


def load(path: Path) -> None:
    """Load the device into this process.

    Raises:
        RuntimeError: torch is imported already, and has looked for devices.
    """
    if "torch" in sys.modules:
        raise RuntimeError("expected a process without torch, found it imported: it looks for devices once")
    ctypes.CDLL(str(path))


def _torch_folder() -> Path:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise UserError("a trace needs torch, which is not installed.")
    return Path(spec.origin).parent


def _compile(torch: Path, built: Path) -> None:
    """Compile beside the place where it is wanted, and move it there when it is whole."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise UserError("a trace compiles a small library and needs g++, which is not there: apt-get install g++.")
    headers = torch / _INCLUDED[0] / "c10" / "core" / "Allocator.h"
    if not headers.exists():
        raise UserError(f"a trace needs torch's headers, and {headers} is not there: install torch from its wheel.")
    libraries = torch / "lib"
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent, prefix="building-") as scratch:
        made = Path(scratch) / built.name
        command = [
            compiler,
            *_OPTIONS,
            str(SOURCE),
            *(f"-I{torch / folder}" for folder in _INCLUDED),
            f"-L{libraries}",
            f"-Wl,-rpath,{libraries}",
            *(f"-l{name}" for name in _LINKED),
            "-o",
            str(made),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if "error" in line][:5]
            raise UserError("the device of a trace does not compile:\n  " + "\n  ".join(errors or ["no message"]))
        made.replace(built)
