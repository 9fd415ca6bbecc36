"""`make gpu-setup`: install Transformer Engine for the torch of the environment that runs this.

Transformer Engine that lacks one of its three packages breaks the import of Megatron, so all are there before any is
installed, and they are installed together.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.gpu import wheels
from nemo_bt.gpu.toolchain import Toolchain, build_environment, find_toolchain, link_libraries

_PACKAGES = ("transformer-engine", "transformer-engine-torch", "transformer-engine-cu12", "transformer-engine-cu13")
_CHECK = """
import torch, transformer_engine, transformer_engine.pytorch
cudnn = torch.backends.cudnn.version()
print(f"Transformer Engine {transformer_engine.__version__}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
      f"cuDNN {cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}")
"""
"""torch first, as in Megatron: it brings libcublas, which Transformer Engine does not find in CUDA 13's packages."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        The exit status: 2 for what the user can mend.
    """
    parser = argparse.ArgumentParser(prog="python -m nemo_bt.gpu.install", description=__doc__)
    parser.add_argument(
        "--flash-attention",
        action="store_true",
        help=f"also flash-attn {wheels.FLASH_ATTENTION}, built from source; cuDNN's attention is there without it",
    )
    parser.add_argument("--arch", help="compute capabilities like 9.0 or 8.0;9.0: the GPU's that is here, else 9.0")
    parser.add_argument(
        "--wheels", type=Path, default=wheels.default_folder(), help="keeps what is built (%(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        print(install(args.arch, args.flash_attention, args.wheels))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def install(arch: str | None, with_flash_attention: bool, folder: Path) -> str:
    """Install, and check in a fresh process that it can be imported.

    Args:
        arch: compute capabilities; None for the GPU's that is here, else 9.0.
        with_flash_attention: build and install that too.
        folder: of wheels that were built, by their key.

    Returns:
        The versions, in a line.

    Raises:
        UserError: torch, nvcc or the network do not allow it; the message says what to change.
    """
    toolchain = find_toolchain(arch)
    environment = build_environment(toolchain)
    needed = missing((*wheels.BUILDING, *wheels.NEEDED))
    if needed:
        wheels.pip(["install", "--no-deps", *needed], os.environ)
    sources = [wheels.extension()]
    if with_flash_attention:
        sources.append(wheels.flash_attention(toolchain.arch))
    built = [str(_wheel(source, toolchain, folder, environment)) for source in sources]
    core = f"transformer-engine-cu{toolchain.cuda}"
    with tempfile.TemporaryDirectory(prefix="nemo_bt-wheels-") as downloads:
        names = [f"{name}=={wheels.TRANSFORMER_ENGINE}" for name in ("transformer-engine", core)]
        wheels.pip(["download", "--no-deps", "--only-binary=:all:", "--dest", downloads, *names], os.environ)
        built += [str(wheel) for wheel in sorted(Path(downloads).iterdir())]
        old = [name for name in _PACKAGES if not missing([name])]
        if old:  # pip keeps an extension for another torch that has the same version
            wheels.pip(["uninstall", "--yes", *old], os.environ)
        wheels.pip(["install", "--no-deps", "--no-index", *built], os.environ)
    link_libraries(toolchain.packages, Path(sysconfig.get_path("purelib")))
    return check_import(toolchain.packages)


def missing(pins: Sequence[str]) -> list[str]:
    """Those of some `name==version` whose package is not installed, in whatever version."""
    found = []
    for pin in pins:
        try:
            version(pin.split("==")[0])
        except PackageNotFoundError:
            found.append(pin)
    return found


def _wheel(source: wheels.Source, toolchain: Toolchain, folder: Path, environment: dict[str, str]) -> Path:
    """The kept one, or a new one."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = folder / wheels.key(source, toolchain.torch, toolchain.cuda, python, toolchain.arch)
    wheel = wheels.kept_wheel(source, home)
    if wheel:
        print(f"{source.name} {source.version}: {wheel}")
        return wheel
    print(
        f"building {source.name} {source.version} for torch {toolchain.torch}; output in {home}/build.log", flush=True
    )
    return wheels.build(source, home, environment)


def check_import(packages: Path) -> str:
    """Import Transformer Engine as training does.

    Args:
        packages: the folder in which torch is installed.

    Returns:
        Its version and those of torch, CUDA and cuDNN.

    Raises:
        UserError: it cannot be imported; with the reason, and what to do where a library was not found.
    """
    result = subprocess.run([sys.executable, "-c", _CHECK], capture_output=True, text=True)
    if result.returncode == 0:
        return result.stdout.strip().splitlines()[-1]
    reason = result.stderr.strip().splitlines()[-1:]
    folders = sorted({str(path.parent) for path in packages.glob("nvidia/*/lib/libnvrtc.so*")})
    raise UserError(
        f"Transformer Engine is installed, but cannot be imported: {' '.join(reason)}\n"
        "Where a library is not found, put its folder into a file of /etc/ld.so.conf.d and run ldconfig, or set "
        "CUDA_HOME to a toolkit that has it (Transformer Engine does not look into LD_LIBRARY_PATH for libnvrtc). "
        f"libnvrtc is in: {', '.join(folders) or 'none of the packages beside torch'}."
    )


if __name__ == "__main__":
    sys.exit(main())
