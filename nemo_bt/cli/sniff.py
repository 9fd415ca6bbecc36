"""Products and messages whose right value is known to the bit, with their rates: what check-nodes tries on each node.

Sizes follow the device: on CPUs the same runs in a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup, Store

_SLOW = 0.9
"""Of the median of a rate, below which it is named."""
_LARGEST = 11
"""Twice a product of two integers up to it is below 256; bf16 holds these."""
_SIZES = {"cuda": (8192, 2**27, 1.0), "cpu": (256, 2**16, 0.05)}
"""Side of a product, numbers of a message, and seconds of each."""


@dataclass(frozen=True)
class Tried:
    """What one device did.

    Args:
        what: the product or message.
        device: which of the node.
        rate: in `unit`.
        unit: of the rate.
        num_wrong: numbers that came out other than they are, over all repetitions.
    """

    what: str
    device: str
    rate: float
    unit: str
    num_wrong: int


def try_products(kind: str) -> list[Tried]:
    """Multiply matrices in fp32 and bf16 on all devices of the node at once.

    With a_i, b_j in -11..11 and signs s_k, t_k, of which two more agree than do not, the sum over k of
    (a_i s_k)(t_k b_j) is 2 a_i b_j: factors, partial sums in fp32 and results below 256 in bf16 are exact, and no error
    of a term is rounded away.

    Args:
        kind: cuda or cpu.
    """
    import torch

    devices = [torch.device(kind, at) for at in range(torch.cuda.device_count())] if kind == "cuda" else []
    with ThreadPoolExecutor(max(1, len(devices))) as pool:
        found = list(pool.map(_products_on, devices or [torch.device("cpu")]))
    return [tried for of_device in found for tried in of_device]


def _products_on(device: torch.device) -> list[Tried]:
    import torch

    size, _, seconds = _SIZES[device.type]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        numbers = torch.arange(size, device=device)
        left, right = numbers % (2 * _LARGEST + 1) - _LARGEST, numbers * 7 % (2 * _LARGEST + 1) - _LARGEST
        sign = (numbers * 5 % 3 % 2 * 2 - 1).to(dtype)
        agrees = (1 - numbers % 2 * 2).to(dtype)
        agrees[-1] = 1
        a, b = left.to(dtype)[:, None] * sign, (sign * agrees)[:, None] * right.to(dtype)
        expected = (2 * left[:, None] * right).to(dtype)
        wrong = torch.zeros((), dtype=torch.int64, device=device)

        per_s = _repeated(partial(_multiply, a, b, expected, wrong), device, seconds)
        name = str(dtype).removeprefix("torch.")
        found.append(Tried(f"{name} product", str(device), 2 * size**3 * per_s / 1e12, "TFLOP/s", int(wrong)))
    return found


def _multiply(a: torch.Tensor, b: torch.Tensor, expected: torch.Tensor, wrong: torch.Tensor) -> None:
    """Count what comes out wrong, without a wait for the device."""
    wrong.add_((a @ b != expected).sum())


def _repeated(work: Callable[[], None], device: torch.device, seconds: float, count: int = 0) -> float:
    """Do work for some seconds, or `count` times; give how often a second, after one that warms up."""
    work()
    _wait_for(device)
    start_s, done = time.perf_counter(), 0
    while done < count or (not count and time.perf_counter() - start_s < seconds):
        work()
        done += 1
        if done % 4 == 0:
            _wait_for(device)
    _wait_for(device)
    return done / (time.perf_counter() - start_s)


def _wait_for(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def try_messages(kind: str, store: Store, rank: int, num_nodes: int, timeout: timedelta) -> list[Tried]:
    """Have this node exchange known numbers with both of its neighbours, a pair of nodes at a time.

    All nodes of one collective are as slow as the slowest. In pairs a node has two chances: its rate is the better one,
    so that a slow node takes none of its neighbours along, where there are three or more.
    """
    import torch
    import torch.distributed as dist

    if num_nodes == 1:
        return []
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_nodes, timeout=timeout)
    try:
        pairs = [sorted({at, (at + 1) % num_nodes}) for at in range(num_nodes)]
        order = dict.fromkeys(map(tuple, [*pairs[0::2], *pairs[1::2]]))
        every = {pair: dist.new_group(list(pair), timeout=timeout) for pair in order}  # all nodes make all of them
        groups = {pair: group for pair, group in every.items() if rank in pair}
        devices = range(torch.cuda.device_count()) if kind == "cuda" else range(1)
        tried = [
            _exchange(torch.device(kind, at) if kind == "cuda" else torch.device("cpu"), group, rank, pair)
            for at in devices
            for pair, group in groups.items()
        ]
    finally:
        dist.destroy_process_group()
    best: dict[tuple[str, str], Tried] = {}
    for one in (one for some in tried for one in some):
        before = best.get((one.what, one.device), one)
        wrong = one.num_wrong + before.num_wrong * (before is not one)
        best[one.what, one.device] = Tried(one.what, one.device, max(one.rate, before.rate), one.unit, wrong)
    return list(best.values())


def _exchange(device: torch.device, group: ProcessGroup, rank: int, pair: Sequence[int]) -> list[Tried]:
    import torch
    import torch.distributed as dist

    _, size, _ = _SIZES[device.type]
    numbers = torch.arange(size, device=device) % 4096
    own, wrong = (numbers + rank).float(), torch.zeros((2,), dtype=torch.int64, device=device)
    total = (2 * numbers + sum(pair)).float()
    everyone = torch.stack([numbers + other for other in pair]).float()

    def reduce() -> None:
        given = own.clone()
        dist.all_reduce(given, group=group)
        wrong[0] += (given != total).sum()

    def gather() -> None:
        found = torch.empty_like(everyone)
        dist.all_gather([*found], own, group=group)
        wrong[1] += (found != everyone).sum()

    rates = [_repeated(work, device, 0, count=8) * own.nbytes / 1e9 for work in (reduce, gather)]
    names = ("all_reduce", "all_gather")
    return [
        Tried(name, str(device), rate, "GB/s", int(bad))
        for name, rate, bad in zip(names, rates, wrong.tolist(), strict=True)
    ]


def wrong_results(found: Mapping[str, Sequence[Tried]]) -> list[str]:
    """Name devices whose numbers are not what they are; `found` is by node."""
    return [
        f"node {node}, {one.device}: {one.what} gave {one.num_wrong} wrong numbers"
        for node, tried in found.items()
        for one in tried
        if one.num_wrong
    ]


def slow_devices(found: Mapping[str, Sequence[Tried]]) -> list[str]:
    """Name devices whose rate is more than a tenth below the median of all."""
    rates: dict[str, list[float]] = {}
    for one in (one for tried in found.values() for one in tried):
        rates.setdefault(one.what, []).append(one.rate)
    return [
        f"node {node}, {one.device}: {one.what} at {one.rate:.3g} {one.unit}, where the median is {usual:.3g}"
        for node, tried in found.items()
        for one in tried
        if one.rate < _SLOW * (usual := median(rates[one.what]))
    ]


def rates_of(found: Mapping[str, Sequence[Tried]]) -> str:
    """Tell the smallest and largest rate of each product and message."""
    tried: dict[tuple[str, str], list[float]] = {}
    for one in (one for some in found.values() for one in some):
        tried.setdefault((one.what, one.unit), []).append(one.rate)
    return ", ".join(f"{what} {min(rates):.3g} to {max(rates):.3g} {unit}" for (what, unit), rates in tried.items())
