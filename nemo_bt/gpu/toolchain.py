"""The torch, the CUDA compiler and the GPU that an extension is built for; what Transformer Engine asks of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from nemo_bt.errors import UserError

_CUDA_MAJORS = (12, 13)
"""For which Transformer Engine 2.9 has a library."""
_DEFAULT_ARCH = "9.0"
_DEFAULT_TOOLKIT = Path("/usr/local/cuda")
_IN_A_TOOLKIT = ("bin/nvcc", "include/cuda_runtime.h")
_ARCH = re.compile(r"\d+\.\d[af]?(;\d+\.\d[af]?)*")
_LOOKED_FOR = {"cuda_nvrtc": ("libnvrtc.so.*", "libnvrtc-builtins.so.*"), "curand": ("libcurand.so.*",)}
"""Folders of the environment's nvidia/ that Transformer Engine searches; CUDA 13's packages have one folder for all."""


@dataclass(frozen=True)
class Toolchain:
    """What extensions are built for, and with."""

    torch: str
    """Its version without a local part, like 2.13.0."""
    cuda: int
    """Major version of CUDA that torch was built for."""
    home: Path
    """The toolkit: it has bin/nvcc."""
    arch: str
    """Compute capabilities, joined by ";"."""
    packages: Path
    """The folder in which torch is installed."""


def find_toolchain(arch: str | None) -> Toolchain:
    """Look at the environment that runs this.

    Args:
        arch: compute capabilities such as "9.0" or "8.0;9.0"; None for those of the GPU that is here, else 9.0.

    Raises:
        UserError: torch has no CUDA or one without Transformer Engine, there is no nvcc or one of another CUDA.
    """
    if arch and not _ARCH.fullmatch(arch):
        raise UserError(f"--arch: expected compute capabilities like 9.0 or 8.0;9.0, got {arch!r}.")

    import torch

    found = f"torch {torch.__version__} of {sys.executable}"
    cuda = torch.version.cuda
    version = Version(torch.__version__).public
    if cuda is None:
        raise UserError(
            f"expected a torch that is built for CUDA, found {found}. Install one, for example: "
            f"pip install torch=={version} --index-url https://download.pytorch.org/whl/cu130"
        )
    major = int(cuda.split(".")[0])
    if major not in _CUDA_MAJORS:
        raise UserError(f"expected a torch for CUDA 12 or 13, found {found}, for CUDA {cuda}. Install another torch.")
    home = find_toolkit(os.environ)
    compiler = _version_of_nvcc(home)
    if compiler.major != major:
        raise UserError(
            f"expected nvcc of CUDA {major}, for which {found} was built, got {compiler} at {home}. Point CUDA_HOME at "
            f"a toolkit of CUDA {major}, or install a torch for CUDA {compiler.major}."
        )
    if arch is None and torch.cuda.is_available():
        arch = ".".join(map(str, torch.cuda.get_device_capability()))
    return Toolchain(version, major, home, arch or _DEFAULT_ARCH, Path(torch.__file__).parents[1])


def find_toolkit(environment: Mapping[str, str]) -> Path:
    """CUDA_HOME; where it is not set, the toolkit of the nvcc on PATH (which may be a script of another place) or the
    default.

    Raises:
        UserError: it has no bin/nvcc or no headers.
    """
    named, on_path = environment.get("CUDA_HOME"), shutil.which("nvcc", path=environment.get("PATH", ""))
    places = [Path(named)] if named else [_DEFAULT_TOOLKIT]
    if on_path and not named:
        places.insert(0, Path(on_path).resolve().parents[1])
    for place in places:
        if all((place / file).is_file() for file in _IN_A_TOOLKIT):
            return place
    raise UserError(
        f"expected the CUDA toolkit, with {' and '.join(_IN_A_TOOLKIT)}, in "
        f"{'CUDA_HOME' if named else 'the folder of nvcc or the default'}: {', '.join(map(str, places))}. Install it, "
        "or set CUDA_HOME to its folder."
    )


def _version_of_nvcc(home: Path) -> Version:
    said = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+\.\d+)", said)
    if release is None:
        raise UserError(f"expected 'release <version>' from {home}/bin/nvcc --version, got {said!r}.")
    return Version(release[1])


def build_environment(toolchain: Toolchain) -> dict[str, str]:
    """Variables under which Transformer Engine's and flash-attention's setup.py find headers and compiler.

    What the user has set stays: MAX_JOBS, CPATH (behind).
    """
    nvidia = toolchain.packages / "nvidia"
    headers = [str(folder) for folder in sorted(nvidia.glob("*/include"))]
    known = os.environ.get("CPATH")
    environment = dict(os.environ) | {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),  # ninja
        "CUDA_HOME": str(toolchain.home),
        "CPATH": os.pathsep.join([*headers, known] if known else headers),
        "NVTE_FRAMEWORK": "pytorch",
        "TORCH_CUDA_ARCH_LIST": toolchain.arch,
    }
    if (nvidia / "cudnn").is_dir():
        environment["CUDNN_PATH"] = str(nvidia / "cudnn")
    return environment


def link_libraries(packages: Path, searched: Path) -> None:
    """Put libraries of CUDA 13's packages where Transformer Engine looks for them, as links.

    It asks CUDA_HOME (else /usr/local/cuda), <searched>/nvidia/cuda_nvrtc and ldconfig for libnvrtc, and nothing else:
    not LD_LIBRARY_PATH, and not nvidia/cu13. So without a whole toolkit its import would fail.

    Args:
        packages: the folder in which torch is installed.
        searched: the environment's folder of packages, sysconfig's "purelib".
    """
    for folder, patterns in _LOOKED_FOR.items():
        links = searched / "nvidia" / folder / "lib"
        if any(not path.is_symlink() for path in links.glob("*")):
            continue  # CUDA 12's packages: the library itself is there
        for library in [file for pattern in patterns for file in packages.glob(f"nvidia/cu1?/lib/{pattern}")]:
            links.mkdir(parents=True, exist_ok=True)
            link = links / library.name
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(library, links))
