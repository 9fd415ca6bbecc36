"""Speed of the server under 64 clients for a minute, against one request at a time.

Every answer is compared with the scorer's.

python -m benchmarks.serving --data folder/with/hh_val.parquet

A client asks for one conversation, waits for its reward, and asks again; clients and server share the machine. With
--attack, four good clients ask while another does what it can against them (benchmarks/serving_attack.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.scoring import conversations_of
from benchmarks.serving_attack import ATTACKS, poison, run_attack
from nemo_bt.data.formats.responses import Chat
from nemo_bt.scoring.scorer import RewardScorer

_CLIENTS = 64
_TOLERANCE = 1e-5
_ALONE_S = 20.0
_WARM_S = 15.0
_GOOD_CLIENTS = 4
_ATTACK_S = 12.0
_CALM_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/serving"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    model = args.folder / "model"
    small_llama.make_tokenizer(args.data, args.folder / "tokenizer")
    small_llama.make_model(small_llama.SMALL, args.folder / "tokenizer", model, seed=1)
    if args.attack:
        poison(model)
    conversations = [side.messages for side in conversations_of(args.data / "hh_val.parquet") if isinstance(side, Chat)]
    with RewardScorer.from_pretrained(model, accelerator="cpu") as scorer:
        expected = scorer.score_batch(conversations)
    address, process = _start(model, args.folder / "server.log")
    load = asyncio.run
    if args.attack:
        _measure_attacks(address, psutil.Process(process.pid), conversations, expected, args.host_kind)
        _end(process)
        return
    load(_clients(address, 4, 5.0, conversations, expected))  # this warms up
    alone = load(_clients(address, 1, _ALONE_S, conversations, expected))
    load(_clients(address, _CLIENTS, _WARM_S, conversations, expected))  # batches grow to their full size
    resident_bytes = psutil.Process(process.pid).memory_info().rss
    together = load(_clients(address, _CLIENTS, args.seconds, conversations, expected))
    growth = psutil.Process(process.pid).memory_info().rss / resident_bytes
    _end(process)
    figures = [
        _figure("answers", len(together.seconds), "count"),
        _figure("largest_difference_of_a_reward", max(alone.difference, together.difference), "reward", _TOLERANCE),
        _figure("requests_per_second_64_clients", together.rate, "requests/s"),
        _figure("requests_per_second_one_at_a_time", alone.rate, "requests/s"),
        _figure("throughput_ratio", together.rate / alone.rate, "ratio"),
        _figure("resident_bytes_after_over_before", growth, "ratio"),
    ]
    for name, found in (("64_clients", together), ("one_at_a_time", alone)):
        cuts = quantiles(found.seconds, n=100)
        figures += [_figure(f"p50_s_{name}", cuts[49], "s"), _figure(f"p99_s_{name}", cuts[98], "s")]
    print(f"wrote {write_results('serving', args.host_kind, 'python -m benchmarks.serving --data data', figures)}")
    worst = max(alone.difference, together.difference)
    if worst > _TOLERANCE or alone.failed + together.failed:
        raise SystemExit(f"a reward differs by {worst}, {alone.failed + together.failed} requests have no answer")


def _measure_attacks(
    address: str, server: psutil.Process, conversations: list[Any], expected: list[float], host_kind: str
) -> None:
    """Let good clients ask without an attack, and during each, and write what they saw and what the server held."""
    asyncio.run(_clients(address, _CLIENTS, _WARM_S, conversations, expected))
    figures = []
    failed = 0
    for name in (None, *ATTACKS):
        before_bytes = server.memory_info().rss
        with ProcessPoolExecutor(1, get_context("spawn")) as attacker:
            tried = attacker.submit(run_attack, name, address, _ATTACK_S) if name else None
            load = asyncio.run(_clients(address, _GOOD_CLIENTS, _ATTACK_S, conversations, expected))
            num_tried = tried.result() if tried else 0
        _wait_until_calm(address)
        after_bytes = server.memory_info().rss
        wrong = load.failed + (load.difference > _TOLERANCE)
        failed += wrong
        case = f"serving_attack/{name or 'no attack'}"
        figures += [
            Figure(f"{case}/{what}", value, unit, value, value, target)
            for what, value, unit, target in (
                ("tried", num_tried, "count", None),
                ("good_answers", len(load.seconds), "count", None),
                ("good_requests_without_a_right_answer", wrong, "count", 0),
                ("good_p99_s", quantiles(load.seconds, n=100)[98], "s", None),
                ("resident_bytes_before", before_bytes, "bytes", None),
                ("resident_bytes_after", after_bytes, "bytes", None),
            )
        ]
        print(name, num_tried, len(load.seconds), wrong, before_bytes >> 20, after_bytes >> 20, flush=True)
    write_results("serving_attack", host_kind, "python -m benchmarks.serving --data data --attack", figures)
    if failed:
        raise SystemExit(f"{failed} good requests have no right answer")


def _figure(name: str, value: float, unit: str, target: float | None = None) -> Figure:
    return Figure(f"serving/hh/{name}", value, unit, value, value, target)


def _wait_until_calm(address: str) -> None:
    """Wait until the server holds no request, as /metrics has it; for half a minute at most."""
    deadline_s = time.monotonic() + 30
    with httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=30) as client:
        while "nemo_bt_held_bytes 0.0" not in client.get(f"{address}/metrics").text:
            assert time.monotonic() < deadline_s
            time.sleep(_CALM_S)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def _start(model: Path, log: Path) -> tuple[str, subprocess.Popen[str]]:
    command = [sys.executable, "-m", "nemo_bt", "serve", f"model.restore_from_path={model}", "serve.port=0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "trainer.accelerator=cpu"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout
    for line in process.stdout:
        found = re.search(r"at (http://\S+):", line)
        if found:
            with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
                client.get(f"{found[1]}/health")
            return found[1], process
    raise SystemExit(f"the server did not start: see {log}")


class _Load:
    """Answers that clients saw."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failed = 0
        self.difference = 0.0
        self.rate = 0.0


async def _clients(address: str, number: int, seconds: float, conversations: list[Any], expected: list[float]) -> _Load:
    load = _Load()
    bodies = [json.dumps({"conversations": [one]}).encode() for one in conversations]
    end_s = time.perf_counter() + seconds

    async def ask(client: httpx.AsyncClient, seed: int) -> None:
        draw = random.Random(seed)
        while time.perf_counter() < end_s:
            which = draw.randrange(len(bodies))
            start_s = time.perf_counter()
            try:
                answer = await client.post(f"{address}/reward", content=bodies[which])
                answer.raise_for_status()
            except httpx.HTTPError as error:
                print(f"a good client: {error!r}", flush=True)
                load.failed += 1
                continue
            load.seconds.append(time.perf_counter() - start_s)
            (reward,) = answer.json()["rewards"]
            load.difference = max(load.difference, abs(reward - expected[which]))

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=number)) as client:
        start_s = time.perf_counter()
        await asyncio.gather(*(ask(client, seed) for seed in range(number)))
        load.rate = len(load.seconds) / (time.perf_counter() - start_s)
    return load


if __name__ == "__main__":
    main()
