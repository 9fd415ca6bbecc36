"""The Python of Transformer Engine: what is installed, or its pure wheel of 0.7 MB, unpacked in a cache."""

from __future__ import annotations

import os
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.gpu_setup import TRANSFORMER_ENGINE, pip

_PACKAGE = "transformer-engine"


def transformer_engine(folder: Path) -> Path:
    """Give a folder with the package transformer_engine; it is fetched where it is neither installed nor in `folder`.

    Raises:
        UserError: it is not there, and cannot be fetched.
    """
    installed = _installed()
    if installed:
        return installed
    unpacked = folder / f"transformer_engine-{TRANSFORMER_ENGINE}"
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as scratch:
            _fetch(Path(scratch) / "wheel")
            (wheel,) = (Path(scratch) / "wheel").glob("*.whl")
            zipfile.ZipFile(wheel).extractall(Path(scratch) / "unpacked")
            (Path(scratch) / "unpacked").rename(unpacked)
    return unpacked


def _installed() -> Path | None:
    """Give the folder of an installed package of the version that is traced."""
    try:
        found = metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file("")))
    is_there = found.version == TRANSFORMER_ENGINE and (folder / "transformer_engine" / "pytorch").is_dir()
    return folder if is_there else None


def _fetch(to: Path) -> None:
    pin = f"{_PACKAGE}=={TRANSFORMER_ENGINE}"
    try:
        pip(["download", "--no-deps", "--only-binary=:all:", "--dest", str(to), pin], os.environ)
    except UserError as error:
        raise UserError(
            f"a trace runs Transformer Engine's Python, which is not installed, and it could not be fetched: {error}\n"
            f"Where there is a network: pip download --no-deps {pin}, and unpack the wheel into "
            f"{cache_name(to.parents[1])}."
        ) from error


def cache_name(folder: Path) -> Path:
    """Give the folder in which the unpacked wheel is looked for."""
    return folder / f"transformer_engine-{TRANSFORMER_ENGINE}"
