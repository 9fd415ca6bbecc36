"""Malformed checkpoints: safetensors, .nemo in one file, .nemo directories."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.malformed.cases import BOMB, VALUES, Case, Inputs, changed, copied, cut_to, damaged, of_file, untouched

_INDEX = "model.safetensors.index.json"
_NORM = "model.norm.weight"


def cases(inputs: Inputs) -> Iterator[Case]:
    """Give about 300 of them."""
    model, nemo = inputs.models["qwen3"], inputs.nemo
    yield untouched(model)
    shard = sorted(path.name for path in model.glob("*.safetensors"))[-1]
    for name in (_INDEX, shard):
        for what, write in of_file(model, name):
            yield Case(what, write)
    for what, value in VALUES.items():
        for place in (("weight_map",), ("weight_map", _NORM), ("metadata",)):
            yield Case(f"index {place[-1]} {what}", copied(model, _in_json(_INDEX, place, value)))
        for place in (("shape",), ("dtype",), ("data_offsets",), ("data_offsets", 0), ("data_offsets", 1)):
            if what == "missing" and len(place) == 2:
                continue
            yield Case(f"header {place} {what}", copied(model, _in_header(shard, place, value)))
    for text in ("../x.safetensors", "/etc/passwd", "a" * 5000, "a\x00b", ".", ""):
        yield Case(f"index names {text[:20]!r}", copied(model, _in_json(_INDEX, ("weight_map", _NORM), text)))
    for dtype in ("F8_E4M3", "I64", "BOOL", "F64", "U8", "X"):
        yield Case(f"header dtype {dtype}", copied(model, _in_header(shard, ("dtype",), dtype)))
    for length in (0, 1, 2**31, 2**62, 2**64 - 1):
        yield Case(f"header of {length} bytes", copied(model, _header_length(shard, length)))
    for name in ("weights/.metadata", "weights/__0_0.distcp", "context/hf_config.json"):
        for what, write in of_file(nemo, name):
            yield Case(f"nemo {what}", write)
    for name, content in _TARS.items():
        yield Case(f"packed {name}", copied(inputs.packed, lambda path, c=content: path.write_bytes(c())))
    for n in range(12):
        part = (n + 0.5) / 12
        yield Case(f"packed cut to {part:.2f}", copied(inputs.packed, cut_to(part)))
        yield Case(f"packed damaged at {part:.2f}", copied(inputs.packed, damaged(part)))


def _in_json(name: str, place: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(changed(json.loads((folder / name).read_text()), place, value)))

    return change


def _in_header(name: str, place: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        first = next(key for key in header if key != "__metadata__")
        new = json.dumps(changed(header, (first, *place), value)).encode()
        (folder / name).write_bytes(len(new).to_bytes(8, "little") + new + content[end:])

    return change


def _header_length(name: str, length: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(length.to_bytes(8, "little") + (folder / name).read_bytes()[8:])

    return change


def _tar(*members: tuple[str, dict[str, Any], bytes]) -> Callable[[], bytes]:
    def make() -> bytes:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for name, fields, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                for field, value in fields.items():
                    setattr(entry, field, value)
                tar.addfile(entry, io.BytesIO(content))
        return sink.getvalue()

    return make


_TARS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "zeros": lambda: bytes(10_240),
    "a member outside": _tar(("../../x", {}, b"a")),
    "an absolute member": _tar(("/etc/x", {}, b"a")),
    "a link": _tar(("context", {"type": tarfile.SYMTYPE, "linkname": "/etc"}, b"")),
    "a hard link": _tar(("context/a", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, b"")),
    "a pipe": _tar(("context/a", {"type": tarfile.FIFOTYPE}, b"")),
    "a member twice": _tar(("context/a", {}, b"a"), ("context/a", {}, b"b")),
    "a file where a folder is": _tar(("context", {}, b"a"), ("context/hf_config.json", {}, b"{}")),
    "a file below a file": _tar(("context/a", {}, b"a"), ("context/a/b", {}, b"{}")),
    "a long name": _tar((f"context/{'a' * 5000}", {}, b"a")),
    "a name of NULs": _tar(("context/a\x01\x02", {}, b"a")),
    "only a configuration": _tar(("context/hf_config.json", {}, b'{"model_type": "llama"}')),
    "a bomb of aliases": _tar(("context/model.yaml", {}, BOMB.encode())),
    "many members": _tar(*((f"context/{n}", {}, b"") for n in range(20_000))),
    "of NeMo 1": _tar(("model_config.yaml", {}, b"a: 1")),
    "gzip": lambda: b"\x1f\x8b" + bytes(100),
}
"""Packed .nemo files that are none."""
