"""Pack what a CUDA host that reaches no package registry lacks to run this checkout, in parts of less than 64 MiB.

pip decides what that is: it resolves the project's requirements, as locked, in an empty environment of the host's
Python in which stubs stand for what the host has. Run it at the checkout, beside a glibc no newer than the host's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from nemo_bt.errors import UserError
from nemo_bt.gpu_setup import EXTENSION, TRANSFORMER_ENGINE, default_folder, key, pip

PART_BYTES = 60 * 2**20
_CHECKOUT = Path(__file__).parents[2]
_PRESET = 3
"""On Transformer Engine's library, 468 MB, preset 6 takes half as long again and saves 8 %."""
Metadata = Mapping[str, Any]
"""Description of a package, as `pip inspect` gives it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_host.pack", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts; not there yet")
    parser.add_argument(
        "--host", type=Path, help="the host's `pip inspect`; without it everything is packed, torch too"
    )
    parser.add_argument(
        "--keep",
        nargs="*",
        default=["torch", "numpy", "protobuf"],
        metavar="NAME",
        help="of these the host's is used in any version: its other packages are compiled against them (%(default)s)",
    )
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="NAME", help="to leave out, with what only they need: wandb, ray"
    )
    parser.add_argument("--extra", nargs="*", default=[], metavar="NAME", help="of the project's: bench, with TRL")
    parser.add_argument("--python", default=sys.executable, help="an interpreter of the host's version (%(default)s)")
    parser.add_argument("--cuda", type=int, choices=(12, 13), default=13, help="of the host's torch (%(default)s)")
    try:
        pack(parser.parse_args(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def pack(options: argparse.Namespace) -> None:
    """Resolve, install into one folder, cut into parts; the output folder gets its name when it is whole.

    Raises:
        UserError: an option, the registry or a missing wheel does not allow it.
    """
    if options.output.exists():
        raise UserError(f"--output: expected a folder that is not there yet, got {options.output}. Delete it.")
    asked = "import platform; print(platform.python_version())"
    python = subprocess.run([options.python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    host = host_packages(options.host, python) if options.host else {}
    locked = locked_versions((_CHECKOUT / ".requirements.lock").read_text(), python)
    torch = Version(host["torch"]["version"] if "torch" in host else locked["torch"]).public
    extension = extension_wheel(torch, options.cuda, python)
    roots = [f"{_CHECKOUT}[{','.join(['gpu', *options.extra])}]", str(extension)]
    roots += [
        f"{name}=={TRANSFORMER_ENGINE}" for name in ("transformer-engine", f"transformer-engine-cu{options.cuda}")
    ]
    kept = [canonicalize_name(name) for name in options.keep if canonicalize_name(name) in host]
    packed = missing(roots, host, locked, kept, options.without, options.python)
    check_torch(packed, torch, options.cuda)
    del packed["nemo-bt"]  # the checkout
    print(f"{len(packed)} packages are packed.")
    for name in kept:
        print(f"  the host's {name} {host[name]['version']} is used; locked is {locked.get(name)}")
    with tempfile.TemporaryDirectory(dir=options.output.absolute().parent, prefix=".packing-") as scratch:
        tree = Path(scratch) / "tree"
        result = Path(scratch) / "pack"
        result.mkdir()
        pins = [f"{name}=={version}" for name, version in packed.items() if name != EXTENSION]
        install([*pins, str(extension)], tree, options.python)
        write_parts(tree, result, {"python": python.rpartition(".")[0], "packages": packed})
        result.rename(options.output)
    parts = sorted(options.output.glob("part-*"))
    size_mib = sum(part.stat().st_size for part in parts) / 2**20
    print(f"{len(parts)} parts, {size_mib:.0f} MiB: on the host, python3 {options.output}/unpack.py --to DIR")


def host_packages(path: Path, python: str) -> dict[str, Metadata]:
    """Read what a host has, by name, and compare its Python with the one that packs.

    Raises:
        UserError: the file is not from pip inspect, or from another Python.
    """
    try:
        said = json.loads(path.read_text())
        version = said["environment"]["python_version"]
        installed = said["installed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--host: expected a file of the host's `python3 -m pip inspect`, got {path}: {error!r}."
        ) from error
    if version != python.rpartition(".")[0]:
        raise UserError(f"expected --python of the host's version {version}, got {python}: name python{version}.")
    return {canonicalize_name(package["metadata"]["name"]): package["metadata"] for package in installed}


def locked_versions(text: str, python: str) -> dict[str, str]:
    """Give the versions in a lock file that hold for a Python like 3.12.1, from lines `name==version ; marker`."""
    environment = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    lines = [Requirement(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    holding = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in holding}


def extension_wheel(torch: str, cuda: int, python: str) -> Path:
    """Give the wheel of Transformer Engine's extension that gpu_setup has kept.

    Raises:
        UserError: gpu_setup has kept none.
    """
    folder = default_folder() / key(torch, cuda, python.rpartition(".")[0])
    found = next(folder.glob("*.whl"), None)
    if found is None:
        raise UserError(
            f"expected a wheel of {EXTENSION} for torch {torch}, CUDA {cuda} and Python {python} in {folder}. Run "
            "python -m nemo_bt.gpu_setup in an environment that has these, or put it there."
        )
    return found


def missing(
    roots: Sequence[str],
    host: Mapping[str, Metadata],
    locked: Mapping[str, str],
    kept: Collection[str],
    without: Collection[str],
    python: str,
) -> dict[str, str]:
    """Ask pip for everything that the host lacks, or has in a version that somebody does not take.

    Args:
        roots: requirements to begin with, as on pip's command line.
        host: its packages by name. Only their extras are followed, as their other needs came with them.
        locked: versions of the packages that are packed.
        kept: packages that the host's copy serves in any version; their stubs have the locked one.
        without: packages that are left out, with those that only they need.
        python: an interpreter of the host's version.

    Returns:
        Versions by name.

    Raises:
        UserError: pip cannot resolve it, or a name is not locked.
    """
    absent = {canonicalize_name(name) for name in without}
    if absent - locked.keys():
        raise UserError(f"--without: expected names in .requirements.lock, got {', '.join(absent - locked.keys())}.")
    stubs = {name: {"version": locked[name]} for name in absent}
    stubs |= {name: {**one, "version": locked.get(name, one["version"])} for name, one in host.items() if name in kept}
    stubs = {**host, **stubs}
    while True:
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "report.json"
            constraints = Path(scratch) / "constraints.txt"
            constraints.write_text("".join(f"{name}=={locked[name]}\n" for name in locked if name not in stubs))
            interpreter = _environment_of(stubs, Path(scratch) / "environment", python)
            options = ["--dry-run", "--report", str(report), "--constraint", str(constraints)]
            pip(["install", *options, *roots], os.environ | {"PIP_PYTHON": str(interpreter)})
            installs = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        packed = {canonicalize_name(one["name"]): one["version"] for one in installs}
        replaced = packed.keys() & stubs.keys()
        if not replaced:
            return dict(sorted(packed.items()))
        stubs = {name: one for name, one in stubs.items() if name not in replaced}  # now pip resolves these as locked


def _environment_of(stubs: Mapping[str, Metadata], folder: Path, python: str) -> Path:
    """Make a virtual environment that says it has packages; give its interpreter."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name, stub in stubs.items():
        extras = [f"Provides-Extra: {extra}" for extra in stub.get("provides_extra", ())]
        extras += [f"Requires-Dist: {line}" for line in stub.get("requires_dist", ()) if "extra ==" in line]
        info = packages / f"{name.replace('-', '_')}-{stub['version']}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {stub['version']}", *extras]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
    return folder / "bin" / "python"


def check_torch(packed: Mapping[str, str], torch: str, cuda: int) -> None:
    """Check that the torch that will be used is the one that the extension was built for.

    Raises:
        UserError: that torch is another version, or for another CUDA.
    """
    if packed.get("torch", torch) != torch:
        raise UserError(f"the host's torch {torch} is too old for the project, and not among --keep: update it.")
    if "torch" in packed and f"nvidia-cudnn-cu{cuda}" not in packed:
        raise UserError(f"expected the locked torch to be built for CUDA {cuda}, which it is not: change --cuda.")


def install(requirements: Sequence[str], tree: Path, python: str) -> None:
    """Install packages into a folder; scripts in its bin/ start the python3 that is on PATH.

    Raises:
        UserError: pip cannot install them.
    """
    options = ["--no-deps", "--no-compile", "--ignore-installed", "--use-pep517", "--target", str(tree)]
    pip(["install", *options, *requirements], os.environ | {"PIP_PYTHON": shutil.which(python) or python})
    for script in sorted((tree / "bin").glob("*")):
        first, _, rest = script.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and (b"python" in first or rest.startswith(b"'''exec'")):
            script.write_bytes(b"#!/usr/bin/env python3\n" + rest)


def write_parts(tree: Path, folder: Path, description: Mapping[str, object], limit_bytes: int = PART_BYTES) -> None:
    """Write a folder as one xz-compressed tar, cut into files; parts.json has their SHA-256, unpack.py reads it."""
    archive = folder / "pack.tar.xz"
    with lzma.open(archive, "wb", preset=_PRESET) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        tar.add(tree, ".")
    digests: dict[str, str] = {}
    with archive.open("rb") as file:
        while data := file.read(limit_bytes):
            part = folder / f"part-{len(digests):03d}"
            part.write_bytes(data)
            digests[part.name] = hashlib.sha256(data).hexdigest()
    archive.unlink()
    (folder / "parts.json").write_text(json.dumps({**description, "parts": digests}, indent=1) + "\n")
    shutil.copy(Path(__file__).with_name("unpack.py"), folder)


if __name__ == "__main__":
    sys.exit(main())
