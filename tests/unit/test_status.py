"""nemo-bt status, on log directories written by hand."""

import io
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.checkpoint.best import MEAN_LOSS, best_checkpoint
from nemo_bt.checkpoint.manifest import facts_of, files_of, write_manifest
from nemo_bt.cli.status import show_status
from nemo_bt.errors import UserError
from nemo_bt.observability.events import FILE as EVENTS
from nemo_bt.observability.events import append_event
from nemo_bt.observability.metrics_log import FILE as METRICS
from nemo_bt.observability.terminal import Terminal

ZIP_END = b"PK\5\6" + bytes(18)


NOW = "2026-01-01T00:00:00.000+00:00"


def log_steps(log_dir: Path, steps: range, **more: Any) -> None:
    with (log_dir / "metrics.jsonl").open("a") as file:
        for step in steps:
            values = {"train/loss": 0.7 - step / 100, "train/accuracy": 0.5, "train/step_time_s": 2.0} | more
            file.write(json.dumps({"step": step} | values) + "\n")


def save(log_dir: Path, step: int) -> Path:
    checkpoint = log_dir / "checkpoints" / f"reward-step{step}.nemo"
    (checkpoint / "weights").mkdir(parents=True)
    (checkpoint / "context").mkdir()
    (checkpoint / "weights" / "__0_0.distcp").write_bytes(bytes(978) + ZIP_END)
    (checkpoint / "weights" / "common.pt").write_bytes(b"1" + ZIP_END)
    write_manifest(checkpoint, facts_of(checkpoint, files_of(checkpoint)))
    return checkpoint


def status(log_dir: Path, verifies: bool = False) -> str:
    out = io.StringIO()
    show_status(log_dir, verifies, Terminal(out))
    return " ".join(out.getvalue().split())


def test_a_run_in_progress(tmp_path: Path) -> None:
    append_event(tmp_path, "started", step=0, of_steps=30, ranks=2)
    append_event(tmp_path, "started", step=4, of_steps=30, ranks=2)
    assert "step 4 of 30; nothing logged yet" in status(tmp_path)
    log_steps(tmp_path, range(1, 10))
    log_steps(tmp_path, range(10, 11), **{"train/skipped_steps": 3})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10, "val/hh/loss": 0.5, "val/hh/accuracy": 0.75}) + "\n" + '{"step": 11, "tra')
    shown = status(tmp_path)
    assert f"state running on {socket.gethostname()}, 2 ranks; last line 0:00:0" in shown
    assert "step 10 of 30 loss 0.6000 accuracy 0.500; left 0:00:40, until 2" in shown
    assert "; 3 steps skipped" in shown
    assert "validation hh loss 0.5000 accuracy 0.7500 at step 10" in shown
    assert ", 1 restarts" in shown
    os.utime(tmp_path / "metrics.jsonl", (1e9, 1e9))
    assert "state silent on" in status(tmp_path)


def test_how_a_run_ended(tmp_path: Path) -> None:
    append_event(tmp_path, "started", step=0, of_steps=30, ranks=1)
    append_event(tmp_path, "ended", step=12, of_steps=30, stopped_by="SIGUSR1")
    assert "state stopped by SIGUSR1 and saved, to be resumed" in status(tmp_path)
    append_event(tmp_path, "started", step=12, of_steps=30, ranks=1)
    append_event(tmp_path, "failed", rank=3, error="RuntimeError: no memory")
    append_event(tmp_path, "failed", rank=0, error="RuntimeError: lost")
    assert "state failed: rank 3: RuntimeError: no memory" in status(tmp_path)
    append_event(tmp_path, "started", step=12, of_steps=30, ranks=1)
    append_event(tmp_path, "ended", step=30, of_steps=30, stopped_by=None)
    assert "state finished step" in status(tmp_path)
    append_event(tmp_path, "failed", rank=0, error="model.global_batch_size=8")  # refused before it started
    assert "state finished; a later start failed: rank 0: model.global_batch_size=8" in status(tmp_path)
    gone = int(Path("/proc/sys/kernel/pid_max").read_text())  # a number that no process gets
    append_event(tmp_path, "started", step=12, of_steps=30, ranks=1, pid=gone)
    assert f"state gone: its first rank, process {gone}, is no more" in status(tmp_path)


def test_checkpoints_and_their_state(tmp_path: Path) -> None:
    append_event(tmp_path, "started", step=0, of_steps=30, ranks=1)
    saved = {step: save(tmp_path, step) for step in (5, 10, 15)}
    (saved[5] / "weights" / "common.pt").write_bytes(b"2" + ZIP_END)
    content = bytearray(bytes(978) + ZIP_END)
    content[7] = 1
    (saved[10] / "weights" / "__0_0.distcp").write_bytes(content)
    shutil.copytree(saved[15], tmp_path / "checkpoints" / "reward-step20.nemo.damaged")
    (saved[15] / "manifest.json").unlink()
    (tmp_path / "checkpoints" / ".reward-step25.nemo.unfinished").mkdir()
    quick, whole = status(tmp_path), status(tmp_path, verifies=True)
    for shown in (quick, whole):
        assert "reward-step5.nemo damaged: weights/common.pt has other contents" in shown
        assert "reward-step15.nemo without a manifest 0.000 0:00:0" in shown
        assert ".reward-step25.nemo.unfinished being written, or left unfinished" in shown
        assert "reward-step20.nemo.damaged set aside" in shown
    assert "reward-step10.nemo whole" in quick
    assert "reward-step10.nemo damaged: weights/__0_0.distcp has other contents" in whole


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the log directory of a run, found no events"):
        status(tmp_path)


def test_the_best_checkpoint_is_marked_and_an_ended_run_has_no_time_left(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        for part in ("context", "weights"):
            (tmp_path / "checkpoints" / f"reward-step{step}.nemo" / part).mkdir(parents=True)
    lines = [{"step": step, "val/a/loss": loss, "val/b/loss": 1.0, "val/a/accuracy": acc, "val/b/accuracy": acc}
             for step, loss, acc in ((2, 0.6, 0.9), (4, 0.4, 0.7), (5, 0.1, 0.9), (6, 0.4, 0.8))]  # fmt: skip
    lines.append({"step": 6, "train/loss": 0.5, "train/accuracy": 0.8, "train/step_time_s": 9.0})
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert best_checkpoint(tmp_path) == (tmp_path / "checkpoints" / "reward-step4.nemo", MEAN_LOSS, 0.7)
    monitored = {"checkpoint_callback_params": {"monitor": "val/a/accuracy", "mode": "max"}}
    (tmp_path / "config.yaml").write_text(json.dumps({"exp_manager": monitored}))
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert (best.path.name, best.metric, best.value) == ("reward-step2.nemo", "val/a/accuracy", 0.9)
    started = {"event": "started", "time": NOW, "step": 0, "of_steps": 8, "host": "h", "pid": 1, "ranks": 1}
    for ending, is_left in (({"event": "ended", "time": NOW, "stopped_by": "SIGINT", "step": 7}, False), (None, True)):
        events = [started, *([ending] if ending else [])]
        (tmp_path / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))
        text = status(tmp_path)
        assert ("left 0:00:18" in text) == is_left
        measured = "of 8 loss 0.5000 accuracy 0.800"
        assert (f"step 6 {measured}; left" if is_left else f"step 7 {measured} at step 6") in text
        assert "without a manifest, best: val/a/accuracy 0.9000" in text
        assert text.count("best:") == 1


def test_attributes_have_their_errors_and_no_order_no_accuracy(tmp_path: Path) -> None:
    append_event(tmp_path, "started", step=0, of_steps=30, ranks=1, software={})
    validated = {"step": 2, "val/hh/loss": 0.5, "val/hh/attribute/a/b/error": 0.25, "val/hh/attribute/a/b/known": 3.0}
    validated |= {"val/hh/attribute/none/known": 0.0}
    lines = [{"step": 2, "train/loss": 0.5, "train/step_time_s": 9.0}, validated]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = io.StringIO()
    show_status(tmp_path, False, Terminal(out))
    shown = " ".join(out.getvalue().split())
    assert "2 of 30 loss 0.5000; left" in shown
    assert "validation hh loss 0.5000 error of a/b 0.2500, none - at step 2" in shown
