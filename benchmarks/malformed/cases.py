"""What the kinds of malformed inputs share: a case, values of wrong types, and changes of JSON documents and files."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GONE = object()
"""A field that is taken out."""
VALUES: dict[str, Any] = {
    "missing": GONE,
    "null": None,
    "a text": "abc",
    "an empty text": "",
    "a list": [1, "a", None],
    "a mapping": {"a": [1]},
    "negative": -3,
    "zero": 0,
    "a fraction": 0.37,
    "100,000": 100_000,
    "2**31": 2**31,
    "huge": 10**30,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "true": True,
}
"""Values that a field may have instead of its own."""


@dataclass(frozen=True)
class Inputs:
    """Whole inputs that cases are made of.

    Args:
        folder: where cases are written.
        data: a file of rows.
        tokenizer: a folder.
        models: Hugging Face folders by family.
        nemo: a .nemo directory.
        packed: the same as one file.
    """

    folder: Path
    data: Path
    tokenizer: Path
    models: dict[str, Path]
    nemo: Path
    packed: Path


@dataclass(frozen=True)
class Case:
    """A malformed input.

    Args:
        name: kind and change, unlike any other.
        write: writes it into an empty folder, and gives the path to hand to the command.
    """

    name: str
    write: Callable[[Path], Path]


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Give a JSON document with another value at a place, or without it."""
    new = copy.deepcopy(document)
    inner = new
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return new


def copied(source: Path, change: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Write a copy of a folder or a file that is changed."""

    def write(folder: Path) -> Path:
        target = folder / source.name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        change(target)
        return target

    return write


def untouched(source: Path) -> Case:
    """Give an input as it is: a command that refuses it would refuse all of them, for another reason."""
    return Case("untouched", copied(source, lambda path: None))


def with_json(name: str, place: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    """Change a place of a JSON file of a folder."""

    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(changed(json.loads(file.read_text()), place, value)))

    return change


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
"""YAML whose aliases stand for 10**11 values."""
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "zeros": bytes(4096),
    "no UTF-8": b'{"a": "\xff\xfe"}\n',
    "nested": b"[" * 10_000 + b"]" * 10_000,
    "nested mappings": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "a list": b"[1, 2]",
    "a number": b"7",
    "a text": b'"abc"',
    "null": b"null",
    "{}": b"{}",
    "a huge number": b'{"model_type": 1' + b"0" * 5000 + b"}",
    "a surrogate": b'{"model_type": "\\ud800", "a": "\\udfff"}',
    "a NUL": b'{"model_type": "a\\u0000b"}\x00',
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}
"""What a file may have instead of its own contents."""


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def as_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def as_link(target: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return change


def cut_to(part: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * part)])

    return change


def damaged(byte: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for at in range(int((len(content) - 1) * byte), min(len(content), int((len(content) - 1) * byte) + 9)):
            content[at] ^= 0x5A
        path.write_bytes(bytes(content))

    return change


KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": as_pipe,
    "a folder": as_folder,
    "a socket": as_socket,
    "a link to nothing": as_link("nothing"),
    "a link to itself": lambda path: as_link(path.name)(path),
    "a device without end": as_link("/dev/zero"),
    "gone": lambda path: path.unlink(),
}
"""What may have the name of a file."""


def of_file(source: Path, name: str, parts: int = 4) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Give a folder with one of its files as every content and kind, cut and damaged at several places."""
    for what, content in CONTENTS.items():
        yield f"{name} {what}", copied(source, lambda folder, c=content: (folder / name).write_bytes(c))
    for what, change in KINDS.items():
        yield f"{name} {what}", copied(source, lambda folder, c=change: c(folder / name))
    for n in range(parts):
        part = (n + 0.5) / parts
        yield f"{name} cut to {part:.2f}", copied(source, lambda folder, p=part: cut_to(p)(folder / name))
        yield f"{name} damaged at {part:.2f}", copied(source, lambda folder, p=part: damaged(p)(folder / name))
