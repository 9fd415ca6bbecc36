"""A rank that fails or hangs ends the run within a bounded time, and speaks before those that waited for it."""

import os
import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from nemo_bt.observability.events import read_events
from nemo_bt.observability.failure import report_failure, waits_in
from nemo_bt.observability.terminal import Terminal
from tests.support.layouts import common
from tests.support.runs import REPO, nemo_bt

MODEL = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160"]


def run_with(what: str, dataset: Path, log_dir: Path, *overrides: str) -> tuple[int, str, float]:
    """Exit status, stderr, and seconds from the second step on."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "tests.support.failing_rank", what, *common(dataset, log_dir, 2), *MODEL, *overrides]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=150)
    return result.returncode, result.stderr, time.time() - (log_dir / "metrics.jsonl").stat().st_mtime


def test_the_rank_that_fails_shows_its_traceback_and_the_others_a_line(dataset: Path, tmp_path: Path) -> None:
    status, shown, took_s = run_with("raise", dataset, tmp_path / "run")
    assert status != 0
    assert took_s < 60
    assert shown.count("ArithmeticError: an error of rank 1") == 1
    assert "rank 0 failed" not in shown
    lost = re.search(r"^rank 0 lost the others: .+$", shown, re.MULTILINE)
    own = shown.index(f"rank 1 failed; its output is in {tmp_path}/run/nemo.log")
    assert lost is None or own < lost.start()  # torchrun may end it before it has noticed
    failed = [event for event in read_events(tmp_path / "run") if event["event"] == "failed"]
    assert (failed[0]["rank"], failed[0]["error"]) == (1, "ArithmeticError: an error of rank 1")


def test_the_rank_that_hangs_shows_where_and_the_others_that_they_waited(dataset: Path, tmp_path: Path) -> None:
    status, shown, took_s = run_with("hang", dataset, tmp_path / "run", "trainer.hang_timeout_s=15")
    assert status != 0
    assert took_s < 60
    hung = shown.index("rank 1 did nothing for 15 s (trainer.hang_timeout_s), at ")
    assert "time.sleep(600)" in shown[:hung]
    waited = re.search(r"rank 0 waited 15 s for other ranks, at .*nemo_bt/[\w/]+\.py:\d+", shown)
    assert waited is None or hung < waited.start()
    assert "rank 0 did nothing" not in shown
    assert next(one["rank"] for one in read_events(tmp_path / "run") if one["event"] == "failed") == 1


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["nemo_bt.training.train", "torch.distributed.distributed_c10d"], True),
        (["megatron.core.distributed.param_and_grad_buffer", "torch.futures"], True),
        (["torch.distributed.run", *["nemo_bt.training.train"] * 4], False),
        (["torch.distributed_tools"], False),
        ([], False),
    ],
)
def test_a_stack_that_ends_in_a_collective_waits(modules: list[str], expected: bool) -> None:
    assert waits_in({"__name__": name} for name in modules) is expected


@pytest.mark.parametrize(
    ("message", "is_another"),
    [
        ("[/x/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:55976: Connection reset by peer. This is", True),
        ("[/x/gloo/transport/tcp/unbound_buffer.cc:88] Timed out waiting 1800000ms for recv operation", True),
        ("the connection to the tracker was refused", False),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_what_the_transport_says_is_a_line_wherever_autograd_waited(
    message: str, is_another: bool, tmp_path: Path
) -> None:
    said = StringIO()
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        report_failure(1, tmp_path, Terminal(None, said))(RuntimeError, error, error.__traceback__)
    assert ("rank 1 lost the others" in said.getvalue()) is is_another
    assert ("Traceback" in said.getvalue()) is not is_another


def test_a_module_of_ours_says_itself_that_it_waits() -> None:
    assert waits_in([{"__name__": "nemo_bt.x", "WAITS_FOR_OTHERS": True}, {"__name__": "torch.cuda"}])
    for module in ("graceful_stop", "nonfinite", "replicas", "stragglers"):
        assert "WAITS_FOR_OTHERS = True" in (REPO / f"nemo_bt/training/callbacks/{module}.py").read_text()


@pytest.mark.parametrize(("what", "on"), [("slow", "forward and backward"), ("late", "data")])
def test_a_rank_that_the_others_wait_for_is_named_once(what: str, on: str, dataset: Path, tmp_path: Path) -> None:
    """Each step takes all ranks as long: that of the other rank is spent in the exchange of gradients."""
    lengths = ["trainer.max_steps=62", "trainer.max_epochs=100", "trainer.limit_val_batches=0"]
    status, shown, _ = run_with(what, dataset, tmp_path / "run", *lengths, "trainer.log_every_n_steps=5")
    assert status == 0, shown
    slow = [event for event in read_events(tmp_path / "run") if event["event"] == "slow"]
    assert [(event["rank"], event["on"], event["step"]) for event in slow] == [(1, on, 25)]
    assert slow[0]["longer"] > 0.1
    row = f"rank 1 (node {slow[0]['node']}) by {slow[0]['longer']:.0%} on {on}, at step 25"
    assert row in " ".join(nemo_bt("status", str(tmp_path / "run")).stdout.split())
