"""Unpack what `python -m benchmarks.gpu_host.pack` wrote, on the host: python3 unpack.py --to DIR [FOLDER OF PARTS].

It needs nothing but Python. DIR gets its name when it is whole; then `source DIR/env.sh`.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib.util
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any, NoReturn

_LIBRARIES = {"libcudnn.so": "cudnn", "libnvrtc.so": "cuda_nvrtc", "libcurand.so": "curand"}
"""Transformer Engine looks for these in CUDA_HOME, this folder of nvidia/ in the environment, and ldconfig's list."""
_NAMED = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
_CUDA_HOME = next((Path(place) for place in _NAMED if place and os.path.isdir(place)), Path("/usr/local/cuda"))


class _Joined(io.RawIOBase):
    """The parts, read as one file."""

    def __init__(self, paths: list[Path]) -> None:
        self._rest = list(paths)
        self._data = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (count := self._data.readinto(buffer)) and self._rest:
            self._data = io.BytesIO(self._rest.pop(0).read_bytes())
        return count


def main() -> None:
    """Run the command line: check every part, unpack beside --to, and rename."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to unpack to; not there yet")
    parser.add_argument("parts", type=Path, nargs="?", default=Path(__file__).parent, help="folder with the parts")
    args = parser.parse_args()
    to = args.to.absolute()
    try:
        if to.exists():
            _refuse(f"expected a folder that is not there yet, got {to}. Delete it, or name another with --to.")
        paths = _checked_parts(args.parts)
        partial = to.with_name(f"{to.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on
        with tarfile.open(fileobj=io.BufferedReader(_Joined(paths), 2**20), mode="r|xz") as tar:
            tar.extractall(partial, **safely)
        (partial / "env.sh").write_text(_variables(partial, to))
        partial.rename(to)
    except OSError as error:
        _refuse(str(error))
    print(f"Before every use:\n  source {shlex.quote(str(to))}/env.sh")


def _refuse(said: str) -> NoReturn:
    """End the program with what the user can mend."""
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)


def _checked_parts(folder: Path) -> list[Path]:
    """Give the parts in their order, all of them as they were written, or end the program."""
    try:
        described = json.loads((folder / "parts.json").read_bytes())
    except ValueError as error:
        _refuse(f"{folder}/parts.json is damaged: {error}. Bring it again.")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if described["python"] != here:
        _refuse(
            f"expected Python {described['python']}, for which this was packed, got {here}: run unpack.py with "
            f"the Python that will use it, or pack with --python python{here}."
        )
    wrong = []
    for name, digest in described["parts"].items():
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} is damaged: its SHA-256 is not the one in parts.json")
    if wrong:
        _refuse(f"of {len(described['parts'])} parts in {folder}, {'; '.join(wrong)}. Bring them again.")
    return [folder / name for name in described["parts"]]


def _variables(tree: Path, to: Path) -> str:
    """Write env.sh of a tree that will be at `to`."""
    home = shlex.quote(str(to))
    lines = [
        f"# Written by unpack.py for {sys.executable}",
        f'export PYTHONPATH={home}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        f'export PATH={home}/bin:"$PATH"',
        "# Megatron compiles an extension when it is imported",
        f'export TORCH_CUDA_ARCH_LIST="${{TORCH_CUDA_ARCH_LIST:-{_compute_capability()}}}"',
    ]
    links = _link_libraries(tree, to)
    if links:
        folders = ":".join(f"{home}/cuda-home/{link}/lib" for link in links)
        lines += [
            "# Links to the toolkit and to packages: Transformer Engine opens libraries in CUDA_HOME,",
            "# and the linker finds what these need in LD_LIBRARY_PATH",
            f"export CUDA_HOME={home}/cuda-home",
            f'export LD_LIBRARY_PATH="${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}"{folders}',
        ]
    return "\n".join(lines) + "\n"


def _compute_capability() -> str:
    """Ask for the first GPU's compute capability; 9.0 where there is none."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "9.0"
    return said[0] if said else "9.0"


def _link_libraries(tree: Path, to: Path) -> list[str]:
    """Make a CUDA_HOME in which Transformer Engine finds all of _LIBRARIES, where the host's own lacks some.

    Returns:
        The links to packages; none where nothing was needed.
    """
    lacking = [library for library in _LIBRARIES if not _is_found(library)]
    if not lacking:
        return []
    home = tree / "cuda-home"
    home.mkdir()
    compiler = shutil.which("nvcc")
    places = [_CUDA_HOME, *([Path(compiler).resolve().parents[1]] if compiler else [])]
    toolkit = next((place for place in places if (place / "include" / "cuda_runtime.h").is_file()), None)
    for entry in toolkit.iterdir() if toolkit else []:
        (home / entry.name).symlink_to(entry)
    spec = importlib.util.find_spec("nvidia")
    folders = [tree / "nvidia", *map(Path, (spec and spec.submodule_search_locations) or [])]
    for library in lacking:
        found = next((path for folder in folders for path in sorted(folder.glob(f"*/lib/{library}*"))), None)
        if found is None:
            print(f"warning: Transformer Engine needs {library}, which was not found", file=sys.stderr)
            continue
        package = found.parents[1]
        link = home / f"of-{package.name}"
        if not link.is_symlink():
            link.symlink_to(to / package.relative_to(tree) if package.is_relative_to(tree) else package)
    return sorted(link.name for link in home.glob("of-*"))


def _is_found(library: str) -> bool:
    """Look where Transformer Engine looks: LD_LIBRARY_PATH is not among it, nor is CUDA 13's nvidia/cu13."""
    package = Path(sysconfig.get_path("purelib"), "nvidia", _LIBRARIES[library], "lib")
    if glob.glob(f"{_CUDA_HOME}/**/{library}*", recursive=True) or any(package.glob(f"{library}*")):
        return True
    try:
        return library in subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main()
