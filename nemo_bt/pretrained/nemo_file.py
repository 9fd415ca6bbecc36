"""A .nemo on disk: NeMo 2's directory of `context/` and `weights/`, or the same in one tar, read in place.

Only the small files of `context/` are unpacked from a tar, and those only after its members have been checked.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from nemo_bt.errors import UserError
from nemo_bt.foreign.files import check_file, reading

_MAX_CONTEXT_BYTES = 2**30
OF_NEMO_1 = "model_config.yaml"
"""A file that NeMo 1 writes beside the weights, and NeMo 2 does not."""


class NemoFile:
    """Files of a .nemo by name.

    Args:
        path: a directory or an uncompressed tar; one that is cut short, or whose members could leave it, is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar: tarfile.TarFile | None = None
        if path.is_dir():
            _check_generation(path, (path / OF_NEMO_1).exists())
            self.context = path / "context"
            return
        mend = "A NeMo 1 file, or one that is compressed, has to be converted with the NeMo that wrote it."
        check_file(path, mend)
        with reading(f"{path}: expected a .nemo, a directory or an uncompressed tar, got: ", mend):
            self._tar = tarfile.open(path, mode="r:")  # noqa: SIM115 (open as long as this object)
            self._members = _checked(self._tar, path)
            _check_generation(path, OF_NEMO_1 in self._members)
            self._unpacked = tempfile.TemporaryDirectory(prefix="nemo_bt-context-")
            self.context = Path(self._unpacked.name) / "context"
            self._unpack_context()

    def open_weights(self, name: str) -> BinaryIO:
        """Open a file of `weights/` for reading.

        Raises:
            OSError: it is not there, or `name` is a path to elsewhere.
        """
        if Path(name).name != name:
            raise OSError(f"'{name}' is not a file of weights/")
        if self._tar is None:
            file = self.path / "weights" / name
            if file.exists() and not file.is_file():
                raise OSError(f"{file} is no file")
            return file.open("rb")
        member = self._members.get(f"weights/{name}")
        if member is None:
            raise FileNotFoundError(f"{self.path} has no weights/{name}")
        return cast(BinaryIO, self._tar.extractfile(member))

    def _unpack_context(self) -> None:
        assert self._tar is not None
        members = {name: member for name, member in self._members.items() if name.startswith("context/")}
        size_bytes = sum(member.size for member in members.values())
        if size_bytes > _MAX_CONTEXT_BYTES:
            raise UserError(f"{self.path}: context/ has {size_bytes:,} bytes; expected at most {_MAX_CONTEXT_BYTES:,}.")
        for name, member in members.items():
            target = Path(self._unpacked.name) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with cast(BinaryIO, self._tar.extractfile(member)) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file)


def _check_generation(path: Path, is_of_nemo_1: bool) -> None:
    if is_of_nemo_1:
        raise UserError(
            f"{path}: a .nemo of NeMo 1 (it has {OF_NEMO_1}), expected one of NeMo 2. Turn it into a Hugging Face "
            "folder with the script for its family in scripts/checkpoint_converters of the NeMo that wrote it "
            "(convert_llama_nemo_to_hf.py, ...), and start from that folder. The head of a reward model of "
            "NeMo-Aligner (rm_head) is no part of it: train a new one."
        )


def pack(folder: Path, target: Path) -> None:
    """Write a .nemo directory as one uncompressed tar, without owners and times."""
    with tarfile.open(target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            entry.size = file.stat().st_size
            entry.mode = 0o644
            with file.open("rb") as data:
                tar.addfile(entry, data)


def _checked(tar: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Give the files of a tar by normalised name; tarfile itself finds a tar that is cut short."""
    files = {}
    for member in tar.getmembers():
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path}: member '{member.name}' points outside of the .nemo. It was not read.")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise UserError(f"{path}: member '{member.name}' is a link or a device. It was not read.")
        if str(name) in files:
            raise UserError(f"{path}: member '{member.name}' is there twice. It was not read.")
        files[str(name)] = member
    return files
