"""Time and peak memory of both converters on a generated 7 B-shaped bf16 folder, against a plain copy of its files.

python -m benchmarks.conversion --folder /disk/with/45GB [--layers 32] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from benchmarks.results_file import Figure, write_results
from nemo_bt.pretrained.check import expected_tensors
from nemo_bt.pretrained.safetensors_folder import write_shards
from nemo_bt.pretrained.source import TensorInfo

_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForSequenceClassification"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "num_labels": 1,
    "id2label": {"0": "LABEL_0"},
    "torch_dtype": "bfloat16",
}
_SHARD_BYTES = 5 * 10**9
_PEAK_TARGET_GB = 4.0
_SAMPLE_S = 0.02


@dataclass(frozen=True)
class Measured:
    """A command's wall time, and its peak memory without clean pages of files."""

    wall_s: float
    peak_gb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="needs three times the model's size")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--tokenizer", type=Path, required=True, help="any tokenizer folder, for the export")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    hf = _generate(args.folder / "hf", args.layers, args.tokenizer)
    size_gb = sum(file.stat().st_size for file in hf.glob("*.safetensors")) / 1e9
    print(f"generated {size_gb:.2f} GB in {len(list(hf.glob('*.safetensors')))} shards", flush=True)
    runs = [_one_round(args.folder, hf) for _ in range(args.repeats)]
    _check_equal(hf, args.folder / "back")
    figures = []
    for name in ("hf_to_nemo", "nemo_to_hf"):
        case = f"conversion/{name}_{size_gb:.0f}GB"
        measured = [run[name] for run in runs]
        ratios = [run[name].wall_s / run["copy"].wall_s for run in runs]
        figures += [
            _figure(f"{case}/peak_memory", [m.peak_gb for m in measured], "GB", _PEAK_TARGET_GB),
            _figure(f"{case}/wall_time", [m.wall_s for m in measured], "s"),
            _figure(f"{case}/throughput", [size_gb / m.wall_s for m in measured], "GB/s"),
            _figure(f"{case}/time_over_file_copy", ratios, "ratio"),
        ]
    figures.append(
        _figure(f"conversion/copy_{size_gb:.0f}GB/throughput", [size_gb / r["copy"].wall_s for r in runs], "GB/s")
    )
    sizes = f"--layers {args.layers} --repeats {args.repeats}"
    command = f"python -m benchmarks.conversion --folder FOLDER --tokenizer FOLDER {sizes}"
    print(write_results("conversion", args.host_kind, command, figures))
    shutil.rmtree(args.folder / "hf")
    shutil.rmtree(args.folder / "back")


def _generate(folder: Path, num_layers: int, tokenizer: Path) -> Path:
    """Write a Hugging Face folder with random weights, a shard at a time."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tokenizer, folder)
    config = _CONFIG | {"num_hidden_layers": num_layers}
    (folder / "config.json").write_text(json.dumps(config))
    infos = {name: TensorInfo(info.shape, torch.bfloat16) for name, info in expected_tensors(config).items()}
    generator = torch.Generator().manual_seed(0)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, info in infos.items():
            yield name, torch.empty(info.shape, dtype=info.dtype).normal_(std=0.02, generator=generator)

    write_shards(folder, infos, tensors(), _SHARD_BYTES, lambda _: None)
    return folder


def _one_round(folder: Path, hf: Path) -> dict[str, Measured]:
    """Measure a plain copy and both conversions one after the other, so that the machine's noise is shared."""
    for name in ("copy", "x.nemo", "back"):
        shutil.rmtree(folder / name, ignore_errors=True)
    measured = {"copy": _measure(["cp", "-r", str(hf), str(folder / "copy")])}
    shutil.rmtree(folder / "copy")
    converter = [sys.executable, "-m", "converters.hf_to_nemo", "--no-check"]
    measured["hf_to_nemo"] = _measure([*converter, "--input", str(hf), "--output", str(folder / "x.nemo")])
    converter = [sys.executable, "-m", "converters.nemo_to_hf", "--no-check"]
    measured["nemo_to_hf"] = _measure([*converter, "--input", str(folder / "x.nemo"), "--output", str(folder / "back")])
    shutil.rmtree(folder / "x.nemo")
    print({name: (round(m.wall_s, 1), round(m.peak_gb, 2)) for name, m in measured.items()}, flush=True)
    return measured


def _measure(command: list[str]) -> Measured:
    """Run a command until its output is on the disk, and sample its memory."""
    start_s = time.perf_counter()
    peak_bytes = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        peak_bytes = max(peak_bytes, _anonymous_bytes(watched))
        time.sleep(_SAMPLE_S)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    os.sync()
    return Measured(time.perf_counter() - start_s, peak_bytes / 1e9)


def _anonymous_bytes(process: psutil.Process) -> int:
    """Give the resident memory without pages of mapped files, which the kernel can take back."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - memory.shared)


def _check_equal(hf: Path, back: Path) -> None:
    from nemo_bt.pretrained.safetensors_folder import SafetensorsFolder

    one = SafetensorsFolder(hf)
    other = SafetensorsFolder(back)
    assert one.infos == other.infos
    assert all(torch.equal(one.read(name), other.read(name)) for name in one.infos)
    print(f"{len(one.infos)} tensors equal bit for bit")


def _figure(name: str, values: list[float], unit: str, target: float | None = None) -> Figure:
    return Figure(name, sorted(values)[len(values) // 2], unit, min(values), max(values), target)


if __name__ == "__main__":
    main()
