"""Install Transformer Engine for the torch of the environment that runs this: `make gpu-setup`.

Its torch extension exists as source only, so it is compiled here once, and the wheel is kept. A Transformer Engine that
lacks one of its three packages breaks the import of Megatron, so all three are fetched before any is installed. What
the user can mend is a UserError that says what to change.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from nemo_bt.errors import UserError

TRANSFORMER_ENGINE = "2.9.0"  # megatron-core 0.15 takes 2.9 alone
EXTENSION = "transformer-engine-torch"
NEEDED = ("onnxscript==0.7.2", "onnx-ir==1.1.0")
"""Packages that `import transformer_engine.pytorch` needs beyond the project's dependencies; also the extra `gpu`."""
BUILDING = ("ninja==1.13.2", "setuptools==84.2.1", "wheel==0.48.0")
"""Packages that build the extension; an installed one is used as it is."""
_PACKAGES = ("transformer-engine", EXTENSION, "transformer-engine-cu12", "transformer-engine-cu13")
_DEFAULT_TOOLKIT = Path("/usr/local/cuda")
_LOOKED_FOR = {"cuda_nvrtc": ("libnvrtc.so.*", "libnvrtc-builtins.so.*"), "curand": ("libcurand.so.*",)}
"""Folders of the environment's nvidia/ that Transformer Engine searches; CUDA 13's packages have one folder for all."""
_OF_THE_BUILD = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "NVTE_FRAMEWORK": "pytorch"}
"""The extension's setup.py first asks a URL for a wheel, for CUDA 12 whatever torch has. NVTE_PYTORCH_FORCE_BUILD does
not keep it from that; a proxy at which nobody listens does."""
_CHECK = """
import torch, transformer_engine, transformer_engine.pytorch
cudnn = torch.backends.cudnn.version()
print(f"Transformer Engine {transformer_engine.__version__}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
      f"cuDNN {cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}")
"""
"""torch is first, as in Megatron: it brings libcublas, which Transformer Engine does not find in CUDA 13's packages."""


@dataclass(frozen=True)
class Toolchain:
    """Versions that the extension is built for, and the toolkit that builds it."""

    torch: str  # version without its local part, like 2.13.0
    cuda: int  # major version of CUDA that torch was built for
    home: Path  # folder of the toolkit, which has bin/nvcc
    packages: Path  # folder in which torch is installed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m nemo_bt.gpu_setup", description=__doc__)
    parser.add_argument("--wheels", type=Path, default=default_folder(), help="keeps what is built (%(default)s)")
    try:
        print(install(parser.parse_args(argv).wheels))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def install(wheels: Path) -> str:
    """Install, check that it can be imported, and give the versions in a line; `wheels` has a folder for each `key`."""
    toolchain = find_toolchain()
    if needed := missing((*BUILDING, *NEEDED)):
        pip(["install", "--no-deps", *needed], os.environ)
    home = wheels / key(toolchain.torch, toolchain.cuda, f"{sys.version_info.major}.{sys.version_info.minor}")
    extension = next(home.glob("*.whl"), None)
    if extension is None:
        print(f"building {EXTENSION} for torch {toolchain.torch}; output in {home}/build.log", flush=True)
        extension = build(f"{EXTENSION}=={TRANSFORMER_ENGINE}", home, build_environment(toolchain))
    print(f"{EXTENSION}: {extension}")
    with tempfile.TemporaryDirectory(prefix="nemo_bt-wheels-") as downloads:
        names = [f"{name}=={TRANSFORMER_ENGINE}" for name in (_PACKAGES[0], f"{_PACKAGES[0]}-cu{toolchain.cuda}")]
        pip(["download", "--no-deps", "--only-binary=:all:", "--dest", downloads, *names], os.environ)
        # pip would keep an extension for another torch that has the same version
        pip(["uninstall", "--yes", *_PACKAGES], os.environ)
        pip(["install", "--no-deps", "--no-index", str(extension), *map(str, Path(downloads).iterdir())], os.environ)
    link_libraries(toolchain.packages, Path(sysconfig.get_path("purelib")))
    return check_import(toolchain.packages)


def missing(pins: Sequence[str]) -> list[str]:
    """Give the pins `name==version` whose package is not installed in any version."""
    installed = {canonicalize_name(package.metadata["Name"]) for package in distributions()}
    return [pin for pin in pins if pin.split("==")[0] not in installed]


def find_toolchain() -> Toolchain:
    """Look at the environment that runs this: torch has a CUDA that Transformer Engine has too, and nvcc the same."""
    import torch

    found = f"torch {torch.__version__} of {sys.executable}"
    release = Version(torch.__version__).public
    major = int((torch.version.cuda or "0").split(".")[0])
    if major not in (12, 13):  # Transformer Engine 2.9 has libraries for these
        raise UserError(
            f"expected a torch for CUDA 12 or 13, found {found}, for CUDA {torch.version.cuda}. Install one, for "
            f"example: pip install torch=={release} --index-url https://download.pytorch.org/whl/cu130"
        )
    home = find_toolkit(os.environ)
    said = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    compiler = re.search(r"release (\d+)\.\d+", said)
    if compiler is None or int(compiler[1]) != major:
        raise UserError(
            f"expected nvcc of CUDA {major}, for which {found} was built, got {compiler[0] if compiler else said!r} at "
            f"{home}. Point CUDA_HOME at a toolkit of CUDA {major}, or install a torch for the CUDA of that one."
        )
    return Toolchain(release, major, home, Path(torch.__file__).parents[1])


def find_toolkit(environment: Mapping[str, str]) -> Path:
    """Give CUDA_HOME, or else the toolkit of the nvcc on PATH (which may be a link to another place) or the default."""
    named = environment.get("CUDA_HOME")
    on_path = shutil.which("nvcc", path=environment.get("PATH", ""))
    of_nvcc = [Path(on_path).resolve().parents[1]] if on_path else []
    places = [Path(named)] if named else [*of_nvcc, _DEFAULT_TOOLKIT]
    for place in places:
        if (place / "bin/nvcc").is_file() and (place / "include/cuda_runtime.h").is_file():
            return place
    where = "CUDA_HOME" if named else "the folder of nvcc or the default"
    raise UserError(
        f"expected the CUDA toolkit, with bin/nvcc and include/cuda_runtime.h, in {where}: "
        f"{', '.join(map(str, places))}. Install it, or set CUDA_HOME to its folder."
    )


def build_environment(toolchain: Toolchain) -> dict[str, str]:
    """Set the variables by which setup.py finds headers and compiler; the user's MAX_JOBS and CPATH (behind) stay."""
    nvidia = toolchain.packages / "nvidia"
    headers = [str(folder) for folder in sorted(nvidia.glob("*/include"))]
    environment = {"MAX_JOBS": str(len(os.sched_getaffinity(0))), "CPATH": "", "PATH": os.defpath} | dict(os.environ)
    environment["PATH"] = f"{sysconfig.get_path('scripts')}:{environment['PATH']}"  # ninja
    environment["CPATH"] = ":".join([*headers, *filter(None, [environment["CPATH"]])])
    environment["CUDA_HOME"] = str(toolchain.home)
    if (nvidia / "cudnn").is_dir():
        environment["CUDNN_PATH"] = str(nvidia / "cudnn")
    return environment


def default_folder() -> Path:
    """Give the folder that keeps built wheels: $NEMO_BT_CACHE/wheels, else ~/.cache/nemo_bt/wheels."""
    return Path(os.environ.get("NEMO_BT_CACHE") or "~/.cache/nemo_bt").expanduser() / "wheels"


def key(torch: str, cuda: int, python: str) -> str:
    """Name all that the extension depends on, as in transformer_engine_torch-2.9.0-torch2.13.0-cu13-cp312-x86_64."""
    made_for = f"torch{torch}-cu{cuda}-cp{python.replace('.', '')}-{platform.machine()}"
    return f"{EXTENSION.replace('-', '_')}-{TRANSFORMER_ENGINE}-{made_for}"


def build(pin: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """Build the source `name==version` for the installed torch; the wheel gets its name when it is whole.

    pip's cache is not used: it keeps wheels by the name of their source, whatever torch they were built for. The
    folder's build.log has the compiler's output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
        options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", f"--no-binary={pin.split('==')[0]}"]
        pip(["download", *options, "--dest", scratch, pin], environment, log)
        (sdist,) = Path(scratch).iterdir()
        made = Path(scratch) / "made"
        pip(["wheel", "-v", *options, "--wheel-dir", str(made), str(sdist)], {**environment, **_OF_THE_BUILD}, log)
        (wheel,) = made.iterdir()
        return wheel.replace(folder / wheel.name)


def pip(arguments: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> None:
    """Run the pip of the environment that runs this, and add what it prints to a log.

    The message of a failure has the first errors, which stand far above the end of the output.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    with log.open("a+") if log else tempfile.TemporaryFile("w+") as output:
        status = subprocess.run(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT).returncode
        output.seek(0)
        lines = output.read().splitlines()
    if status:
        where = f" All of it is in {log}." if log else ""
        errors = [line.strip() for line in lines if "error:" in line.lower()]
        reason = "\n  ".join(errors[:5] or lines[-5:])
        raise UserError(f"pip {arguments[0]} ... {arguments[-1]} failed with status {status}.{where}\n  {reason}")


def link_libraries(packages: Path, searched: Path) -> None:
    """Link libraries of CUDA 13's packages to where Transformer Engine looks for them.

    It asks CUDA_HOME (else /usr/local/cuda), <searched>/nvidia/cuda_nvrtc and ldconfig for libnvrtc, and neither
    LD_LIBRARY_PATH nor nvidia/cu13, so its import would fail without a whole toolkit. `searched` is sysconfig's
    "purelib", and `packages` the folder in which torch is installed.
    """
    for folder, patterns in _LOOKED_FOR.items():
        links = searched / "nvidia" / folder / "lib"
        if any(not path.is_symlink() for path in links.glob("*")):
            continue  # CUDA 12's packages put the library itself here
        for library in [file for pattern in patterns for file in packages.glob(f"nvidia/cu1?/lib/{pattern}")]:
            links.mkdir(parents=True, exist_ok=True)
            (links / library.name).unlink(missing_ok=True)
            (links / library.name).symlink_to(os.path.relpath(library, links))


def check_import(packages: Path) -> str:
    """Import Transformer Engine as training does, and give its version and those of torch, CUDA and cuDNN."""
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
