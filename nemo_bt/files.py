"""Files and folders that are whole under their name, or not there.

Until it is whole, what is written lies beside its place under a name that ends in `.unfinished`. A kill leaves it so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def beside(path: Path, has_rivals: bool = False) -> Iterator[Path]:
    """Give a name to write a file to, which takes the place of `path` when the block ends.

    Until then readers see the old file. An error keeps it, and removes the new one.

    Args:
        has_rivals: other processes may write the same file now, so that each needs a name of its own.
    """
    drawn = f".{os.urandom(8).hex()}" if has_rivals else ""
    unfinished = path.with_name(f"{path.name}{drawn}.unfinished")
    try:
        yield unfinished
        put_in_place(unfinished, path)
    finally:
        with suppress(OSError):  # it has its name, or it could not even be created
            unfinished.unlink()


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a file its name once its bytes are on the disk: after a loss of power the old or the new one is there."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def write_atomically(path: Path, content: str | bytes, has_rivals: bool = False) -> None:
    """Write a whole file, as `beside` does."""
    with beside(path, has_rivals) as unfinished:
        if isinstance(content, str):
            unfinished.write_text(content)
        else:
            unfinished.write_bytes(content)


def unfinished_folder(target: Path, owner: str = "") -> Path:
    """Give the name of a folder until it is whole, hidden from those who list the whole ones."""
    return target.with_name(f".{target.name}{owner and f'.{owner}'}.unfinished")


def unfinished_folders(parent: Path) -> Iterator[Path]:
    """Give the folders that are being written, or were left by a kill."""
    return parent.glob(".*.unfinished")


def remove(path: Path) -> None:
    """Remove a folder with all in it, or what has its name: a file, or a link, whose target stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def new_folder(target: Path, inside: str = "", owner: str = "") -> Iterator[Path]:
    """Give a folder to fill; it, or what is `inside` it, gets its name when the block ends without an error.

    An error removes it; what a kill left is removed by the next one.

    Args:
        target: is not there yet, or an empty folder.
        inside: names a file or folder in it.
        owner: is a part of its name until then, where several may be written at once.
    """
    folder = unfinished_folder(target, owner)
    if os.path.lexists(folder):
        remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
        (folder / inside).rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that is never half there under its name."""
    remove(folder.rename(unfinished_folder(folder)))
