"""Hugging Face folders of safetensors shards: memory-mapped for reading, written one shard at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nemo_bt.errors import UserError
from nemo_bt.foreign.files import check_file, read_json, reading
from nemo_bt.pretrained.source import Region, TensorInfo

WEIGHTS = "model.safetensors"
_INDEX = f"{WEIGHTS}.index.json"
_AGAIN = "Download it again."
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsFolder:
    """A `TensorSource` over the safetensors files of a folder, whole and floating point; `single` names one alone."""

    def __init__(self, folder: Path, single: str = WEIGHTS) -> None:
        self.infos: dict[str, TensorInfo] = {}
        self._files: dict[str, Any] = {}
        for name in _shard_names(folder, single):
            file = _open(folder / name)
            with reading(f"{folder / name}: expected a whole safetensors file, got ", _AGAIN):
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    self._files[key] = file
                    self.infos[key] = _info(folder / name, key, file)

    def read(self, name: str, region: Region = ()) -> Tensor:
        """Read a tensor or a part of it; only the pages of that part are read."""
        part: Tensor = self._files[name].get_slice(name)[region or ...]
        return part


def write_shards(
    folder: Path,
    infos: dict[str, TensorInfo],
    tensors: Iterable[tuple[str, Tensor]],
    max_bytes: int,
    progress: Callable[[int], None],
) -> None:
    """Write `tensors` into shards of at most `max_bytes`, holding one shard in memory, and their index.

    Args:
        folder: one that exists.
        infos: all tensors, in the order in which `tensors` gives them.
        max_bytes: a larger tensor gets a shard of its own.
        progress: is called with the bytes of each shard that is written.

    Raises:
        OSError: the disk does not take it.
    """
    shards = _plan(infos, max_bytes)
    weight_map: dict[str, str] = {}
    stream = iter(tensors)
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        data = dict(next(stream) for _ in names)
        assert list(data) == names, (list(data), names)
        _save(data, folder / file)
        progress(sum(tensor.nbytes for tensor in data.values()))
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = {"total_size": sum(info.num_bytes for info in infos.values())}
        (folder / _INDEX).write_text(json.dumps({"metadata": total, "weight_map": weight_map}, indent=2) + "\n")


def _save(data: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(data, path, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors raises it for whatever the operating system said
        raise OSError(f"{path.name}: {error}") from error


def _plan(infos: dict[str, TensorInfo], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled_bytes = 0
    for name, info in infos.items():
        if shards[-1] and filled_bytes + info.num_bytes > max_bytes:
            shards.append([])
            filled_bytes = 0
        shards[-1].append(name)
        filled_bytes += info.num_bytes
    return shards


def shape_of(folder: Path, name: str, single: str) -> tuple[int, ...] | None:
    """Give the shape of one tensor; None where it is not there, or its file is not."""
    file = (_index(folder, single) or {name: single}).get(name)
    if file is None or not (folder / file).exists():
        return None
    opened = _open(folder / file)
    return tuple(opened.get_slice(name).get_shape()) if name in opened.keys() else None  # noqa: SIM118 (not a dict)


def _index(folder: Path, single: str) -> dict[str, str] | None:
    """Read which file of several has which tensor; None where there is no index."""
    index = folder / f"{single}.index.json"
    if not os.path.lexists(index):
        return None
    what = "an index with weight_map"
    with reading(f"{index}: expected {what}, got ", _AGAIN):
        files: dict[str, str] = dict(read_json(index, what, _AGAIN)["weight_map"].items())
        names = sorted(set(files.values()))
    outside = [name for name in names if Path(str(name)).name != name]
    if outside:
        raise UserError(f"{index}: expected names of files beside it, got {outside[0]}.")
    return files


def _shard_names(folder: Path, single: str) -> list[str]:
    files = _index(folder, single)
    if files is not None:
        return sorted(set(files.values()))
    if os.path.lexists(folder / single):
        return [single]
    pickled = " (there are .bin files: pickles, which can run code, are not read)"
    hint = pickled if list(folder.glob("*_model*.bin")) else ""
    raise UserError(
        f"{folder}: expected {single} or {single}.index.json, found neither{hint}. Save the model as safetensors."
    )


def _open(path: Path) -> Any:
    with reading(f"{path}: expected a whole safetensors file, got: ", _AGAIN):
        if path.exists():
            check_file(path, _AGAIN)
        return safe_open(path, framework="pt")


def _info(path: Path, key: str, file: Any) -> TensorInfo:
    part = file.get_slice(key)
    if part.get_dtype() not in _DTYPES:
        raise UserError(
            f"{path}: {key} has dtype {part.get_dtype()}; expected one of {', '.join(_DTYPES)}. "
            "Quantised weights are not supported: use the original ones."
        )
    return TensorInfo(tuple(part.get_shape()), _DTYPES[part.get_dtype()])
