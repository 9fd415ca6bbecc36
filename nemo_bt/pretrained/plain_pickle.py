"""Pickles of a checkpoint's records, read as plain data: names stand for themselves, and nothing is called.

It is the machine of Python's pickle with the operations that a torch_dist checkpoint's `.metadata` consists of, and no
other. What makes objects there makes a `Record` here. No name becomes a class or a function, so none can be called.
"""

from __future__ import annotations

import io
import pickle
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

_MAX_SIDES = 16


def read_pickle(data: bytes) -> Any:
    """Read a pickle of records, dicts, lists, tuples, texts, whole numbers, dtypes and None.

    Raises:
        ValueError: it is cut, or has anything else; nothing of it was run.
    """
    try:
        return _Machine(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    except (EOFError, TypeError, AttributeError, IndexError, KeyError, struct.error) as error:
        raise ValueError(f"{type(error).__name__} in its operations: it is cut or changed") from error


def whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """Give sides, offsets or sizes as they are, if that is what they are.

    Raises:
        ValueError: it is something else.
    """
    if type(values) not in (tuple, list) or len(values) > _MAX_SIDES:
        raise ValueError(f"{what}: expected at most {_MAX_SIDES} whole numbers")
    if any(type(value) is not int or not 0 <= value < 2**63 for value in values):
        raise ValueError(f"{what}: expected whole numbers from 0")
    return tuple(values)


@dataclass(frozen=True, eq=False)
class _Name:
    """A class or a function that the file names."""

    text: str


@dataclass(eq=False, repr=False)
class Record:
    """An object of the file: the name of its class, what it was made of, and its fields.

    It has no text of its fields: what a few bytes share over and over would be written out.
    """

    name: str
    made_of: tuple[Any, ...]
    state: Any = None


_TORCH = "torch.distributed.checkpoint."
_METADATA = f"{_TORCH}metadata."
_MEMORY_FORMAT, _WRITE = f"{_METADATA}_MEM_FORMAT_ENCODING", f"{_TORCH}planner.WriteItemType"
_SIZE = "torch.Size"
_GETATTR = "builtins.getattr"
"""Early releases of Python 3.11 pickle a member of an enumeration as getattr(class, name)."""
_MEMBERS = {
    _MEMORY_FORMAT: ("TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT"),
    _WRITE: ("TENSOR", "SHARD", "BYTE_IO"),
}
_KNOWN = {
    *(_MEMORY_FORMAT, _WRITE, _SIZE, _GETATTR, "torch.serialization._get_layout"),
    *("collections.OrderedDict", "pathlib.PosixPath", f"{_TORCH}filesystem._StorageInfo"),
    *(f"{_METADATA}{n}" for n in ("Metadata", "StorageMeta", "MetadataIndex", "TensorProperties")),
    *(f"{_METADATA}{kind}StorageMetadata" for kind in ("Tensor", "Bytes", "Chunk")),
    *(f"{_TORCH}planner.{name}" for name in ("SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData")),
    *(f"megatron.core.dist_checkpointing.strategies.torch.{name}" for name in ("MCoreMetadata", "MCoreSavePlan")),
}
_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_OPERATIONS = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("SHORT_BINUNICODE", "BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND"),
    *("APPENDS", "EMPTY_DICT", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL"),
)
"""Operations that pickle's own machine does as they are; `_Machine` does the others itself, and knows no more."""
_KEPT = {code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _OPERATIONS)}


class _Machine(pickle._Unpickler):
    """pickle's machine in Python, with fewer operations: those that make objects make `Record`s alone."""

    def find_class(self, module: str, name: str) -> Any:
        """Take a name for itself, and a dtype for one; no module is looked at."""
        text = f"{module}.{name}"
        if text in _DTYPES:
            return _DTYPES[text]
        if text not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {text[:100]}")
        return _Name(text)

    def _make(self) -> None:
        made_of, name = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(name, _Name) or type(made_of) is not tuple:
            raise pickle.UnpicklingError(f"it calls a {type(name).__name__.strip('_').lower()}")
        self.stack[-1] = _made(name.text, made_of)  # type: ignore[attr-defined]

    def _build(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(record, Record) or record.state is not None or type(state) not in (dict, tuple):
            of = record.text if isinstance(record, _Name) else type(record).__name__
            slots = state[1] if type(state) is tuple and len(state) == 2 else state
            keys = list(slots)[:3] if type(slots) is dict else []
            named = ", ".join(key[:40] if type(key) is str else type(key).__name__ for key in keys) or "fields"
            raise pickle.UnpicklingError(f"it sets {named} of {of}")
        record.state = state

    def _set_items(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self._into(self.stack[-1], items)  # type: ignore[attr-defined]

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self._into(self.stack[-1], [key, value])  # type: ignore[attr-defined]

    def _into(self, target: Any, items: list[Any]) -> None:
        """Set items of a dict. Keys are text, numbers and records: the hash of a tuple may take forever."""
        if type(target) is not dict or any(type(key) not in (str, int, Record) for key in items[::2]):
            raise pickle.UnpicklingError("it sets items of something else than a dict, or by something else than names")
        target.update(zip(items[::2], items[1::2], strict=True))

    dispatch: ClassVar[dict[int, Any]] = {
        **_KEPT,
        pickle.REDUCE[0]: _make,
        pickle.NEWOBJ[0]: _make,
        pickle.BUILD[0]: _build,
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
    }


def _made(name: str, made_of: tuple[Any, ...]) -> Any:
    if name == _SIZE:
        return whole_numbers(made_of[0] if made_of else (), "torch.Size")
    if name == "collections.OrderedDict" and not made_of:
        return {}
    if name == _GETATTR:
        owner, member = made_of
        if not isinstance(owner, _Name) or member not in _MEMBERS.get(owner.text, ()):
            raise pickle.UnpicklingError(
                "it names builtins.getattr, for something else than a member of an enumeration"
            )
        return Record(owner.text, (member,))
    return Record(name, made_of)
