"""Files that others wrote: what they may be, how much is read of them, and one message for whatever is wrong.

A file is looked at before it is opened: a pipe would be waited for, a device may never end. JSON and YAML are read as
plain data up to a size. Everything that a library raises about a file becomes a `UserError` at one boundary.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nemo_bt.errors import UserError

_MOST_BYTES = 256 << 20
"""Size of a file that is read as a whole: the largest tokenizer.json that is known has 35 MB."""
_MOST_NODES = 200_000
"""Values of a YAML file, with those behind its aliases counted each time: a model.yaml of NeMo has a few hundred."""
_MOST_LEVELS = 100
_LONGEST_REASON = 500
"""Characters of a library's own words in a message."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def reading(start: str, mend: str) -> Iterator[None]:
    """Turn whatever is raised while a file of others is read into one message.

    It stands where such a file is handed to a library. What these raise at damaged files is no closed set: tokenizers
    panics, pyarrow has errors of its own, transformers fails as its code happens to. A `UserError` stays as it is.

    Args:
        start: the message up to what was raised: the file, and what was expected of it.
        mend: what to do about it, a sentence.

    Raises:
        UserError: something was raised in the block.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # the boundary itself; a panic of Rust is no Exception
        found = " ".join(repr(error).split())
        found = found if len(found) <= _LONGEST_REASON else f"{found[:_LONGEST_REASON]}…"
        raise UserError(f"{start}{found}. {mend}") from error


def check_file(path: Path | str, mend: str = "Give the file itself.") -> None:
    """Check that a path is a file, or a link to one; nothing is opened.

    Raises:
        UserError: it is a folder, a pipe, a socket or a device, or is not there.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a file, got {error}. {mend}") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: expected a file, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}. {mend}")


def check_folder(folder: Path) -> None:
    """Check that everything in a folder that a library is to read can be opened: files, or folders.

    Raises:
        UserError: a pipe, a socket, a device or a link to nothing is in it.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            check_file(path, f"Take it out of {folder}.")


def check_inside(path: Path, folder: Path) -> None:
    """Check that a file of a folder lies there; a snapshot of a hub's cache links to the blobs of its repository.

    Raises:
        UserError: it is a link to a file elsewhere.
    """
    real, home = path.resolve(), folder.resolve()
    is_blob = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    if not is_blob and not real.is_relative_to(home):
        raise UserError(f"{path}: expected a file of this folder, found a link to {real}. Put the file itself there.")


def read_text(path: Path, mend: str = "Bring it back as it was.", errors: str = "strict") -> str:
    """Read a file of text, UTF-8, that fits into memory.

    Raises:
        UserError: it is no file, is too large, cannot be read, or is no text.
    """
    check_file(path, mend)
    with reading(f"{path}: expected a text file, got ", mend):
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"{path}: expected at most {_MOST_BYTES:,} bytes, found more. {mend}")
        return content.decode("utf-8", errors)


def read_json(path: Path, what: str, mend: str = "Bring it back as it was.") -> dict[str, Any]:
    """Read a file of one JSON object.

    Args:
        path: the file.
        what: what it should be, for the message.
        mend: what to do if it is not.

    Raises:
        UserError: it is something else.
    """
    text = read_text(path, mend)
    with reading(f"{path}: expected {what}, got ", mend):
        found = json.loads(text)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected {what}, found a {type(found).__name__}. {mend}")
    return found


def read_yaml(path: Path, what: str, mend: str = "Bring it back as it was.") -> dict[Any, Any]:
    """Read a file of one YAML mapping, as plain data whose aliases are no more than a few.

    Raises:
        UserError: it is something else, builds objects, or multiplies itself by aliases.
    """
    text = read_text(path, mend)
    with reading(f"{path}: expected {what}, got ", mend):
        check_yaml(text)
        found = yaml.load(text, _Plain)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected {what}, found a {type(found).__name__}. {mend}")
    return found


def check_yaml(text: str) -> None:
    """Check that a YAML text has no more values than a file of settings, its aliases written out.

    Raises:
        ValueError: it has more, or a value that is inside itself.
        yaml.YAMLError: it is no YAML.
    """
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, _Plain):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias {event.anchor} is inside of what it names, or names nothing")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            if len(open_) > _MOST_LEVELS:
                raise ValueError(f"it is nested more than {_MOST_LEVELS} deep")
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = total - before
        if total > _MOST_NODES:
            raise ValueError(f"it has more than {_MOST_NODES:,} values, with those behind its aliases")


_Plain: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's loader of plain data, in C where it was built so."""
