"""Unpack what `python -m nemo_bt.gpu.pack` wrote, on the host: python3 unpack.py --to DIR [FOLDER WITH THE PARTS].

Needs nothing but Python. DIR is there when it is whole; then `source DIR/env.sh`.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib.util
import io
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

_LIBRARIES = {"libcudnn.so": "cudnn", "libnvrtc.so": "cuda_nvrtc", "libcurand.so": "curand"}
"""Which Transformer Engine looks for in CUDA_HOME, this folder of nvidia/ in the environment, and ldconfig's list."""
_NAMED = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
_CUDA_HOME = next((Path(place) for place in _NAMED if place and os.path.isdir(place)), Path("/usr/local/cuda"))


class _RefusedError(Exception):
    """Something that the user can mend; the text says what."""


class _Parts(io.RawIOBase):
    """The parts, read as one file."""

    def __init__(self, paths: list[Path]) -> None:
        self._rest = list(paths)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            count = self._file.readinto(buffer) if self._file else 0
            if count or not self._rest:
                return count
            if self._file:
                self._file.close()
            self._file = self._rest.pop(0).open("rb")

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()


def main() -> int:
    """Command line.

    Returns:
        The exit status: 2 for what the user can mend.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to unpack to; not there yet")
    parser.add_argument("parts", type=Path, nargs="?", default=Path(__file__).parent, help="folder with the parts")
    args = parser.parse_args()
    try:
        unpack(args.parts, args.to.absolute())
    except (_RefusedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def unpack(folder: Path, to: Path) -> None:
    """Check every part, unpack beside `to`, and rename.

    Raises:
        _RefusedError: `to` is there, a part is missing or damaged, or this is another Python.
        OSError: of the file system.
    """
    if to.exists():
        raise _RefusedError(f"expected a folder that is not there yet, got {to}. Delete it, or name another with --to.")
    try:
        description = json.loads((folder / "parts.json").read_bytes())
    except ValueError as error:
        raise _RefusedError(f"{folder}/parts.json is damaged: {error}. Bring it again.") from error
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if description["python"] != here:
        raise _RefusedError(
            f"expected Python {description['python']}, for which this was packed, got {here}: run unpack.py with the "
            "Python that will use it, or pack with --python " + here
        )
    paths = _checked(folder, description)
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.10.12, 3.11.4 on
    whole = io.BufferedReader(_Parts(paths), 2**20)
    with whole, lzma.open(whole) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        tar.extractall(partial, **safely)
    (partial / "env.sh").write_text(_variables(partial, to))
    partial.rename(to)
    print(f"{len(description['packages'])} packages are in {to}. Before every use:")
    print(f"  source {shlex.quote(str(to))}/env.sh")


def _checked(folder: Path, description: dict[str, Any]) -> list[Path]:
    """The parts in their order, all of them as they were written."""
    wrong, paths = [], []
    whole = hashlib.sha256()
    for part in description["parts"]:
        path = folder / part["name"]
        paths.append(path)
        if not path.is_file():
            wrong.append(f"{part['name']} is missing")
            continue
        size = path.stat().st_size
        if size != part["size"]:
            wrong.append(f"{part['name']} is damaged: expected {part['size']:,} bytes, got {size:,}")
        elif _digest(path, whole) != part["sha256"]:
            wrong.append(f"{part['name']} is damaged: its SHA-256 is not the one in parts.json")
    if not wrong and whole.hexdigest() != description["sha256"]:
        wrong.append("parts.json does not fit its parts")
    if wrong:
        raise _RefusedError(f"of {len(paths)} parts in {folder}, " + "; ".join(wrong) + ". Bring them again.")
    return paths


def _digest(path: Path, whole: hashlib._Hash) -> str:
    own = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(2**20):
            own.update(data)
            whole.update(data)
    return own.hexdigest()


def _variables(tree: Path, to: Path) -> str:
    """env.sh of a tree that will be at `to`."""
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
    """Of the first GPU; 9.0 where there is none."""
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
    for entry in sorted(toolkit.iterdir()) if toolkit else []:
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
    """Where Transformer Engine looks: LD_LIBRARY_PATH is not among it, nor is CUDA 13's nvidia/cu13."""
    package = Path(sysconfig.get_path("purelib"), "nvidia", _LIBRARIES[library], "lib")
    if glob.glob(f"{_CUDA_HOME}/**/{library}*", recursive=True) or any(package.glob(f"{library}*")):
        return True
    try:
        return library in subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
