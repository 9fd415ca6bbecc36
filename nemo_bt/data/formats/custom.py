"""A data set class of one's own: `model.data.custom_cls.{path,name}`.

It is made as `cls(parquet_files=[...], tokenizer=..., config=...)`, where config has the keys that say how rows are
read, max_length and custom_cls.options, and gives its items by `__len__` and `__getitem__`, or by `__iter__`. An item
is one of

- `{"chosen": ..., "rejected": ...}` or a tuple of the two: texts or lists of messages, which are then treated as the
  rows of a file are; `prompt`, `margin` and `weight` may stand beside them;
- `{"input_ids_j", "attention_mask_j", "input_ids_k", "attention_mask_k"}`: 1-D tensors of chosen (j) and rejected (k),
  padded on either side; the contract of verl's and RM-Gallery's reward data sets.

Its pairs are kept in the cache. The key has the file of the class, the files of the source and the options: where it
reads anything else, name that in an option and change the name when the contents do.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from nemo_bt.config.custom import load_object
from nemo_bt.config.data import CustomClass, RowSettings, SourceSettings
from nemo_bt.data.formats.detect import detect
from nemo_bt.data.formats.values import number_at
from nemo_bt.data.read.chunk import Chunk, Row
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import DataFile
from nemo_bt.errors import UserError

IDS = "ids"
_ID_KEYS = ("input_ids_j", "attention_mask_j", "input_ids_k", "attention_mask_k")
_CHUNK_ITEMS = 512


@dataclass(frozen=True)
class CustomData:
    """An object that keeps to the contract.

    Args:
        items: what it gives, once.
        label: file and class, for messages.
        format: IDS, or the format of its items as rows.
    """

    items: Iterator[Any]
    label: str
    format: str

    def chunks(self) -> Iterator[tuple[int, int, Chunk]]:
        """Give its items as chunks of rows."""
        as_row = _ids_row if self.format == IDS else _row
        number = 0
        while payload := [as_row(item) for item in islice(self.items, _CHUNK_ITEMS)]:
            yield 0, 0, Chunk(self.label, number, len(payload), payload, 0)
            number += len(payload)


def digest_of_class(custom: CustomClass) -> str | None:
    """Compute the SHA-256 of the file; None where no class is named."""
    if not custom.name:
        return None
    if not custom.path or not Path(custom.path).is_file():
        raise UserError(f"model.data.custom_cls.path: expected a Python file with {custom.name}, got {custom.path}.")
    return hashlib.sha256(Path(custom.path).read_bytes()).hexdigest()


def load_custom(source: SourceSettings, tokenizer: Any, max_length: int, files: list[DataFile]) -> CustomData:
    """Make the object and look at its first item.

    Args:
        source: names the class; its keys become the class's config.
        max_length: longest conversation, in tokens.

    Raises:
        UserError: there is no such class, it does not take these arguments, or its first item is something else. What
            the class itself raises is left as it is.
    """
    custom = source.custom_cls
    label = f"{custom.path}:{custom.name}"
    keys = {field.name: getattr(source, field.name) for field in fields(RowSettings)}
    config = keys | {"pairs": asdict(source.pairs), "custom_cls": asdict(custom)}
    config |= {"max_length": max_length} | custom.options
    cls = _load_class(custom)
    arguments = {
        "parquet_files": [file.path for file in files],
        "tokenizer": tokenizer,
        "config": OmegaConf.create(config),
    }
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"{label}: {error}. Expected {custom.name}(parquet_files=, tokenizer=, config=) with __len__ and "
            "__getitem__, or __iter__."
        ) from error
    data = cls(**arguments)
    items = _items(data)
    first = list(islice(items, 1))
    if not first:
        raise UserError(f"{label}: 0 items, expected at least one pair.")
    items = chain(first, items)
    if isinstance(first[0], dict) and set(_ID_KEYS) <= first[0].keys():
        return CustomData(items, label, IDS)
    row = _row(first[0])
    if isinstance(row, RowError):
        raise UserError(
            f"{label}: its first item is {_shown(first[0])}. Expected a dict with chosen and rejected (texts or lists "
            f"of messages), a tuple of the two, or a dict with {', '.join(_ID_KEYS)}."
        )
    return CustomData(items, label, detect(label, [row], source).name)


def _load_class(custom: CustomClass) -> Any:
    key = "model.data.custom_cls"
    cls = load_object(custom.path, str(custom.name), key)
    if not isinstance(cls, type):
        raise UserError(f"{key}.name: no class {custom.name} in {custom.path}.")
    return cls


def _items(data: Any) -> Iterator[Any]:
    if hasattr(type(data), "__len__") and hasattr(type(data), "__getitem__"):
        return (data[i] for i in range(len(data)))
    return iter(data)


def _row(item: Any) -> Row:
    if isinstance(item, tuple) and len(item) == 2:
        return {"chosen": item[0], "rejected": item[1]}
    if isinstance(item, dict) and {"chosen", "rejected"} <= item.keys():
        return item
    return RowError("type", f"an item is {_shown(item)}")


def _ids_row(item: Any) -> Row:
    """Read the ids of chosen and rejected without their padding, margin and weight."""
    row: dict[str, Any] = {}
    try:
        for side, letter in (("chosen", "j"), ("rejected", "k")):
            ids, mask = (np.asarray(item[f"{name}_{letter}"]) for name in ("input_ids", "attention_mask"))
            if ids.ndim != 1 or ids.shape != mask.shape:
                return RowError(
                    "type", f"input_ids_{letter} of shape {ids.shape}, attention_mask_{letter} {mask.shape}"
                )
            ids = ids[mask.astype(bool)]
            if not np.issubdtype(ids.dtype, np.integer) or (ids < 0).any():
                return RowError("type", f"input_ids_{letter} of {ids.dtype}, from {ids.min()}: expected whole numbers")
            row[side] = ids.astype(np.int32)
        for name, default in (("margin", 0.0), ("weight", 1.0)):
            row[name] = number_at(item, name) if name in item else default
    except RowError as error:
        return error
    except (KeyError, TypeError, ValueError) as error:
        return RowError("type", f"an item is {_shown(item)} ({type(error).__name__}: {error})")
    return row


def _shown(item: Any) -> str:
    if isinstance(item, dict):
        return "a dict of " + (", ".join(f"{key}: {type(value).__name__}" for key, value in item.items()) or "nothing")
    return f"{type(item).__name__} {str(item)[:80]!r}"
