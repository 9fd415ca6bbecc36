"""Measure a cluster's constants and write them to conf/cluster/<name>.yaml, for `nemo-bt plan cluster=<name>`.

torchrun --nproc-per-node 8 -m benchmarks.cluster --name ours --flops 989e12

On several nodes torchrun runs on each, as for training; rank 0 writes. Each value is the median of several turns.
Matrix products are in bf16 on a GPU and fp32 on a CPU. Attention runs forward and backward over a stream of pairs; on a
CPU, where each segment takes calls of its own, over tiny ones too. Memory is timed by a copy, on a CPU norms and
activations by those of a layer, and links by an all-reduce of 64 MiB and one of 8 bytes, over the ranks of a node and
over one rank of each node.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

import nemo_bt.conf
from nemo_bt.cpu.kernels import rms_norm, swiglu
from nemo_bt.planning.time import TOUCHES_OF_KEPT

_TURNS = 7
_MESSAGE_BYTES = 64 * 2**20
_COPIED_BYTES = 512 * 2**20
_PAIRS = (8, 384, 128)
"""Number of pairs, tokens of a prompt and of a response."""
_TINY_PAIRS = (128, 4, 2)
_HEADS = 8
_KEY_HEADS = 2
_ROWS = 1024
_HIDDEN_SIZE = 1024
_FFN_SIZE = 2816


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--flops", type=float, help="the data sheet's dense FLOP/s; without it, what is measured")
    parser.add_argument("--fp8-flops", type=float, help="the same in FP8, where there is any")
    parser.add_argument("--rows", type=int, default=8192, help="of the matrices")
    parser.add_argument("--head-size", type=int, default=128, help="of attention; smaller ones reach less of the peak")
    parser.add_argument("--reserved-bytes", type=float, default=5e9)
    parser.add_argument("--folder", type=Path, default=Path(next(iter(nemo_bt.conf.__path__))) / "cluster")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    matmul = matmul_flops(args.rows, device)
    attended, attention_s = attention_time(device, args.head_size, *_PAIRS)
    attention = 3.5 * 4 * _HEADS * args.head_size * attended / attention_s
    segment_s = 0.0 if on_gpu else attention_time(device, args.head_size, *_TINY_PAIRS)[1] / (2 * _TINY_PAIRS[0])
    peak = args.flops or matmul
    node, network = links(device)
    values = {
        "name": args.name,
        "origin": "measured by benchmarks.cluster",
        "compute_capability": list(torch.cuda.get_device_capability()) if on_gpu else None,
        "memory_bytes": float(memory_of(device)),
        "reserved_bytes": args.reserved_bytes,
        "precision": "bf16-mixed" if on_gpu else "32",
        "flops": peak,
        "fp8_flops": args.fp8_flops,
        "matmul_efficiency": min(1.0, matmul / peak),
        "attention_efficiency": min(1.0, attention / peak),
        "attention_segment_s": segment_s,
        "memory_bytes_per_s": memory_speed(device),
        "elementwise_bytes_per_s": None if on_gpu else elementwise_speed(),
        "node_bytes_per_s": node[0],
        "node_latency_s": node[1],
        "network_bytes_per_s": network[0],
        "network_latency_s": network[1],
    }
    if torch.distributed.get_rank() == 0:
        file = args.folder / f"{args.name}.yaml"
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        print(f"{file.read_text()}wrote {file}")
    torch.distributed.destroy_process_group()


def matmul_flops(rows: int, device: torch.device) -> float:
    """Measure the FLOP/s of a product of two square matrices."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(2))
    return 2 * rows**3 / _median_s(lambda: a @ b, device)


def attention_time(
    device: torch.device, head_size: int, num_pairs: int, prefix: int, response: int
) -> tuple[int, float]:
    """Time attention, forward and backward, over pairs that share their prompts, in seconds.

    Args:
        head_size: of a query and a key.
        prefix: tokens of a prompt.
        response: tokens of each response.

    Returns:
        Pairs of a query and a key that it sees, and the time.
    """
    from nemo_bt.cpu import device as cpu

    if device.type == "cpu":
        cpu.install()
    from nemo_bt.batching.context_shards import context_shard
    from nemo_bt.model.attention.blocked import blocked_attention
    from nemo_bt.model.attention.module import kernel_attention
    from nemo_bt.model.attention.segments import AttentionRule

    pair = prefix + 2 * response
    segments = []
    attended = 0
    for start in range(0, num_pairs * pair, pair):
        for first in (start + prefix, start + prefix + response):
            segments.append((start, start + prefix, first, first + response, 1))
            attended += response * prefix + response * (response + 1) // 2
        attended += prefix * (prefix + 1) // 2
    segments_C5 = torch.tensor(segments, dtype=torch.int32)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    query, key, value = (
        torch.randn(num_pairs * pair, heads, head_size, device=device, dtype=dtype, requires_grad=True)
        for heads in (_HEADS, _KEY_HEADS, _KEY_HEADS)
    )
    attend = kernel_attention if device.type == "cuda" else blocked_attention
    rule = AttentionRule(scale=head_size**-0.5)
    shard = context_shard(num_pairs * pair)

    def both_passes() -> None:
        attend(query, key, value, segments_C5, rule, shard).sum().backward()

    return attended, _median_s(both_passes, device)


def memory_speed(device: torch.device) -> float:
    """Measure the bytes per second that a copy reads and writes."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _median_s(lambda: target.copy_(source), device)


def elementwise_speed() -> float:
    """Measure the bytes per second that norm, residual and SwiGLU of a layer touch on a CPU, forward and backward."""
    hidden = torch.randn(_ROWS, _HIDDEN_SIZE, requires_grad=True)
    weight = torch.ones(_HIDDEN_SIZE, requires_grad=True)
    gate_and_up = torch.randn(_ROWS, 2 * _FFN_SIZE, requires_grad=True)
    grad_of_hidden, grad_of_ffn = torch.ones(_ROWS, _HIDDEN_SIZE), torch.ones(_ROWS, _FFN_SIZE)

    def both_passes() -> None:
        (hidden + rms_norm(hidden, weight, 1e-5)).backward(grad_of_hidden)
        swiglu(gate_and_up).backward(grad_of_ffn)

    kept_bytes = 4 * (hidden.numel() + gate_and_up.numel())
    return TOUCHES_OF_KEPT * kept_bytes / _median_s(both_passes, torch.device("cpu"))


def memory_of(device: torch.device) -> int:
    """Give the memory of a GPU in bytes, or a rank's share of the host's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host // int(os.environ["LOCAL_WORLD_SIZE"])


def links(device: torch.device) -> list[tuple[float | None, float | None]]:
    """Measure bytes per second and latency in seconds, inside a node and between nodes."""
    world = torch.distributed.get_world_size()
    each = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = [list(range(first, first + each)) for first in range(0, world, each)]
    across = [list(range(place, world, each)) for place in range(each)]
    return [_link(nodes, device), _link(across, device)]


def _link(groups: list[list[int]], device: torch.device) -> tuple[float | None, float | None]:
    """Measure one kind of link; None where the job has no such link."""
    rank = torch.distributed.get_rank()
    made = [torch.distributed.new_group(ranks) for ranks in groups]
    number = next(number for number, ranks in enumerate(groups) if rank in ranks)
    size = len(groups[number])
    group = made[number]
    if size == 1:
        return None, None
    large = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8, device=device)
    small = torch.zeros(8, dtype=torch.uint8, device=device)

    def seconds(message: Any) -> float:
        return _median_s(lambda: torch.distributed.all_reduce(message, group=group), device)

    latency_s = seconds(small)
    sent = 2 * (size - 1) / size * _MESSAGE_BYTES
    return sent / max(seconds(large) - latency_s, 1e-9), latency_s


def _median_s(work: Callable[[], Any], device: torch.device) -> float:
    """Give the median time of a turn, after one that warms up."""
    times = []
    for _ in range(1 + _TURNS):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start_s)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
