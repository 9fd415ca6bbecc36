"""Wheels for another host: for its Python and glibc, from the registry, or built here where there is only source."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from nemo_bt.errors import UserError
from nemo_bt.gpu import wheels

_GLIBC_MINORS = range(28, 4, -1)
"""glibc 2.28, that of RHEL 8 and everything newer, runs all of these."""
_DOWNLOADS_AT_ONCE = 8
_IN_A_WHEEL = ("nemo_bt", "conf", "converters", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Target:
    """A host that packages are for, and where its wheels are gathered."""

    python: str
    """Like 3.12."""
    versions: Mapping[str, str]
    """Of every package, by its name: what is fetched."""
    folder: Path

    @property
    def tags(self) -> list[str]:
        """Options of pip for wheels that run on the host."""
        python = [
            "--python-version",
            self.python,
            "--implementation",
            "cp",
            "--abi",
            f"cp{self.python.replace('.', '')}",
        ]
        names = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC_MINORS]
        names += [f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")]
        return [*python, *(f"--platform={name}" for name in (*names, "linux_x86_64"))]  # the last are built by hand


def requirements_of(target: Target, names: Sequence[str]) -> dict[str, list[str]]:
    """Fetch packages, and read what they need.

    Args:
        target: the wheels go into its folder.
        names: of packages.

    Returns:
        Name -> the Requires-Dist lines of its wheel.

    Raises:
        UserError: a package has no version, or no wheel that the host could use.
    """
    there = _wheels_of(target.folder)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        list(pool.map(lambda name: _fetch(target, name), [name for name in names if name not in there]))
    there = _wheels_of(target.folder)
    return {name: _requires_dist(there[name]) for name in names}


def _wheels_of(folder: Path) -> dict[str, Path]:
    return {parse_wheel_filename(path.name)[0]: path for path in folder.glob("*.whl")}


def _fetch(target: Target, name: str) -> None:
    if name not in target.versions:
        raise UserError(f"expected a version of {name} in .requirements.lock, which has none: make lock.")
    pin = f"{name}=={target.versions[name]}"
    try:
        binary = ["--no-deps", "--only-binary=:all:", *target.tags]
        wheels.pip(["download", *binary, "--dest", str(target.folder), pin], os.environ)
        return
    except UserError as error:
        refused = error
    with tempfile.TemporaryDirectory(dir=target.folder.parent) as scratch:
        wheels.pip(["wheel", "--no-deps", f"--no-binary={name}", "--wheel-dir", scratch, pin], os.environ)
        (wheel,) = Path(scratch).iterdir()
        if not wheel.name.endswith("-none-any.whl"):
            raise UserError(
                f"expected a wheel of {pin} for Python {target.python}, or a source of Python alone; built here it is "
                f"{wheel.name}. Choose another version, or leave it to the host."
            ) from refused
        shutil.move(wheel, target.folder / wheel.name)


def _requires_dist(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(file.read(name)).get_all("Requires-Dist", [])


def gathered_versions(target: Target, names: Sequence[str]) -> dict[str, str]:
    """Versions of packages whose wheels are there."""
    there = _wheels_of(target.folder)
    return {name: str(parse_wheel_filename(there[canonicalize_name(name)].name)[1]) for name in names}


def build_project(checkout: Path, folder: Path) -> None:
    """Build this project's wheel from a copy: what an earlier build left in the checkout does not get in.

    Raises:
        UserError: pip cannot build it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy, made = Path(scratch) / "copy", Path(scratch) / "made"
        copy.mkdir()
        for name in _IN_A_WHEEL:
            path = checkout / name
            if path.is_dir():
                shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, copy / name)
        wheels.pip(["wheel", "--no-deps", "--wheel-dir", str(made), str(copy)], os.environ)
        (wheel,) = made.iterdir()
        shutil.move(wheel, folder / wheel.name)


def install(target: Target, names: Sequence[str], tree: Path) -> None:
    """Install packages from the target's folder of wheels into a folder, as the host would.

    Args:
        target: of the packages.
        names: of packages.
        tree: the folder; scripts go to its bin/ and start the python3 that is on PATH.

    Raises:
        UserError: pip cannot install them.
    """
    pins = [f"{name}=={number}" for name, number in gathered_versions(target, names).items()]
    offline = ["--no-deps", "--no-index", f"--find-links={target.folder}", "--only-binary=:all:", "--no-compile"]
    offline.append("--ignore-requires-python")  # pip compares with its own, although --python-version is there
    wheels.pip(["install", *offline, *target.tags, "--target", str(tree), *pins], os.environ)
    for path in sorted(tree.rglob("*.pyc")):
        path.unlink()
    mine = f"#!{sys.executable}".encode()
    for script in sorted((tree / "bin").glob("*")):
        text = script.read_bytes()
        if text.startswith(mine):
            script.write_bytes(b"#!/usr/bin/env python3" + text[len(mine) :])
