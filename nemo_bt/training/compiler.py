"""What a GPU run compiles in its first step, and whether a machine can: Triton builds its launchers with a C compiler.

Dense layers need nothing of it: their kernels come compiled. Source: triton/runtime/build.py.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import Architecture


def compiled_parts(architecture: Architecture) -> list[str]:
    """Name the parts of a model that Triton or torch.compile build in the first step on a GPU."""
    return [
        *(["experts"] if architecture.experts else []),
        *(["attention with a soft cap"] if architecture.softcap else []),
    ]


def missing() -> list[str]:
    """Name what this machine lacks to build them."""
    own = os.environ.get("CC")
    compilers = [own] if own else ["gcc", "clang"]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return [
        *([] if find_spec("triton") else ["Triton (pip install triton)"]),
        *([] if any(map(shutil.which, compilers)) else ["a C compiler (apt-get install gcc)"]),
        *([] if header.exists() else [f"{header} (apt-get install python{_version()}-dev)"]),
    ]


def check(architecture: Architecture) -> None:
    """Check that this machine can build what the first step on a GPU needs.

    Raises:
        UserError: it cannot.
    """
    parts, lacks = compiled_parts(architecture), missing()
    if parts and lacks:
        raise UserError(
            f"{' and '.join(parts)}: their kernels are built in the first step on each node, which lacks "
            f"{', '.join(lacks)}. Install it, or use a container that has it."
        )


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
