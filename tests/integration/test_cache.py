"""The cache when several processes build it, or one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.data.store import build as build_module
from nemo_bt.errors import UserError
from tests.support.preferences import write_random_pairs
from tests.support.runs import REPO
from tests.support.sources import entries, open_set


def test_any_number_of_workers_builds_the_same(tmp_path: Path, tokenizer: Any, monkeypatch: Any) -> None:
    file = str(write_random_pairs(tmp_path / "f.parquet", 4000, seed=1))
    found = []
    for workers in (1, 3):
        monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path / f"cache{workers}"))
        (source,) = open_set(file, tokenizer, f"model.data.num_workers={workers}").sources
        found.append([(source.folder / name).read_bytes() for name in ("tokens.arrow", "pairs.arrow")])
    assert found[0] == found[1]


BUILD = """
import sys, time
from transformers import AutoTokenizer
from nemo_bt.data.store import build
from tests.support.sources import open_set
if len(sys.argv) > 3:
    write = build._Writer.write
    def slow(self, encoded):
        write(self, encoded)
        print("wrote", flush=True)
        time.sleep(float(sys.argv[3]))
    build._Writer.write = slow
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(open_set(sys.argv[2], tokenizer, "model.data.num_workers=2").sources[0].folder, flush=True)
"""


def building(tokenizer: Any, file: str, *pause_s: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, tokenizer.name_or_path, file, *pause_s]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO)


def test_a_build_that_was_killed_leaves_nothing_that_looks_whole(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    file = str(write_random_pairs(tmp_path / "f.parquet", 4000, seed=1))
    process = building(tokenizer, file, "100")
    assert process.stdout
    assert process.stdout.readline() == "wrote\n"
    (half,) = entries(cache)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "." in half.name
    assert not (half / "account.json").exists()
    pairs = open_set(file, tokenizer)
    assert len(pairs.epoch) == 4000
    assert entries(cache) == [pairs.sources[0].folder]
    deadline_s = time.monotonic() + 10
    while [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline_s, "workers outlived the build"
        time.sleep(0.1)


def test_two_processes_build_once(tmp_path: Path, tokenizer: Any, cache: Path) -> None:
    file = str(write_random_pairs(tmp_path / "f.parquet", 3000, seed=1))
    both = [building(tokenizer, file, "0.1") for _ in range(2)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert sorted(lines.count("wrote") for lines in said) == [0, 6]
    assert said[0][-1] == said[1][-1] == str(entries(cache)[0])


def test_a_worker_that_is_ended_stops_the_build(tmp_path: Path, tokenizer: Any, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(build_module, "encode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    file = str(write_random_pairs(tmp_path / "f.parquet", 4000, seed=1))
    with pytest.raises(
        UserError, match=r"a process that tokenises f was ended, most often for want of memory\. Set model"
    ):
        open_set(file, tokenizer, "model.data.num_workers=2")
