"""A log directory that somebody has touched: a run goes on rightly, or says in one message what to bring back."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.forked import Ended, Job, run_forked
from tests.support.runs import training

IMPORTS = ("nemo_bt.training.trainer", "nemo_bt.training.train", "nemo_bt.training.callbacks", "nemo_bt.cli.status")
NEWEST, OLDER = (f"checkpoints/reward-step{step}.nemo" for step in (3, 2))
DISTCP = f"{NEWEST}/weights/__0_0.distcp"


def cut(name: str, keep: float = 0.5) -> Callable[[Path], None]:
    def touch(log_dir: Path) -> None:
        content = (log_dir / name).read_bytes()
        (log_dir / name).write_bytes(content[: int(len(content) * keep)])

    return touch


def half_of_lines(name: str) -> Callable[[Path], object]:
    def touch(log_dir: Path) -> None:
        lines = (log_dir / name).read_text().splitlines(keepends=True)
        (log_dir / name).write_text("".join(lines[: len(lines) // 2]))

    return touch


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda log_dir: (log_dir / name).write_bytes(data)


def without(*names: str, then: Callable[[Path], object] = lambda log_dir: None) -> Callable[[Path], None]:
    def touch(log_dir: Path) -> None:
        for name in names:
            path = log_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        then(log_dir)

    return touch


def folder(name: str) -> Callable[[Path], None]:
    return without(name, then=lambda log_dir: (log_dir / name).mkdir())


def pipe(name: str) -> Callable[[Path], None]:
    return without(name, then=lambda log_dir: os.mkfifo(log_dir / name))


def link(name: str, target: str) -> Callable[[Path], None]:
    return without(name, then=lambda log_dir: (log_dir / name).symlink_to(target))


def listening(log_dir: Path) -> None:
    (log_dir / ".lock").unlink()
    here = os.open(log_dir, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(f"/proc/self/fd/{here}/.lock")  # the path itself may be longer than a socket's may be
    os.close(here)


def appended(name: str, content: bytes) -> Callable[[Path], None]:
    def touch(log_dir: Path) -> None:
        with (log_dir / name).open("ab") as file:
            file.write(content)

    return touch


def renamed(log_dir: Path) -> None:
    shutil.copytree(log_dir / OLDER, log_dir / "checkpoints" / "reward-step9.nemo")


BINARY = bytes(range(256)) * 20
MANIFEST = f"{NEWEST}/manifest.json"
GOES_ON, FALLS_BACK = "reward-step3.nemo", "reward-step2.nemo"
STATES: dict[str, tuple[Callable[[Path], object], str]] = {
    "untouched": (lambda log_dir: None, GOES_ON),
    # a checkpoint
    "distcp cut, with a manifest": (cut(DISTCP), FALLS_BACK),
    "distcp cut, without": (without(MANIFEST, then=cut(DISTCP)), FALLS_BACK),
    "distcp emptied, without": (without(MANIFEST, then=write(DISTCP, b"")), FALLS_BACK),
    "distcp a folder, without": (without(MANIFEST, then=folder(DISTCP)), FALLS_BACK),
    "metadata cut, without": (without(MANIFEST, then=cut(f"{NEWEST}/weights/.metadata")), FALLS_BACK),
    "common.pt cut, without": (without(MANIFEST, then=cut(f"{NEWEST}/weights/common.pt")), FALLS_BACK),
    "manifest cut": (cut(MANIFEST), FALLS_BACK),
    "manifest a list": (write(MANIFEST, "[1]"), FALLS_BACK),
    "manifest binary": (write(MANIFEST, BINARY), FALLS_BACK),
    "manifest a folder": (folder(MANIFEST), FALLS_BACK),
    "manifest a pipe": (pipe(MANIFEST), FALLS_BACK),
    "manifest gone": (without(MANIFEST), GOES_ON),
    "checkpoint a file": (without(NEWEST, then=write(NEWEST, BINARY)), FALLS_BACK),
    "checkpoint an empty folder": (folder(NEWEST), FALLS_BACK),
    "checkpoint a link to an older one": (link("checkpoints/reward-step9.nemo", "reward-step2.nemo"), GOES_ON),
    "checkpoint a link to itself": (link("checkpoints/reward-step9.nemo", "reward-step9.nemo"), GOES_ON),
    "checkpoint a link to nothing": (link("checkpoints/reward-step9.nemo", "none"), GOES_ON),
    "checkpoint an older one, copied": (renamed, GOES_ON),
    "context gone, without": (without(f"{NEWEST}/context", MANIFEST), FALLS_BACK),
    "context's config a list, without": (without(MANIFEST, then=write(f"{NEWEST}/context/hf_config.json", "[]")), "hf"),
    # what a run writes beside them
    "config.yaml binary": (write("config.yaml", BINARY), "config.yaml: expected a text file"),
    "config.yaml a list": (write("config.yaml", "- a\n- b\n"), "config.yaml: expected the settings of the run"),
    "config.yaml cut behind a line": (half_of_lines("config.yaml"), "the run to resume had"),
    "config.yaml a folder": (folder("config.yaml"), "config.yaml: expected a file, found a folder"),
    "config.yaml a pipe": (pipe("config.yaml"), "config.yaml: expected a file, found a pipe"),
    "config.yaml of strangers": (
        write("config.yaml", "model: [1]\ntrainer: a\n"),
        "config.yaml: expected the settings",
    ),
    "config.yaml that loops": (write("config.yaml", "a: ${a}\nmodel: ${model}\n"), "config.yaml"),
    "data.json cut": (cut("data.json"), "data.json: expected what the data"),
    "data.json {}": (write("data.json", "{}"), "data.json: expected what the data"),
    "data.json of strings": (
        write("data.json", '{"order of pairs": 2, "train": {"random": "a"}}'),
        "data.json: expected what the data",
    ),
    "metrics.jsonl binary": (write("metrics.jsonl", BINARY), GOES_ON),
    "metrics.jsonl with a null step": (appended("metrics.jsonl", b'{"step": null, "train/loss": 1.0}\n'), GOES_ON),
    "metrics.jsonl with texts": (appended("metrics.jsonl", b'{"step": 3, "val/held_out/loss": "low"}\n'), GOES_ON),
    "metrics.jsonl with a huge step": (appended("metrics.jsonl", b'{"step": 1' + b"0" * 400 + b"}\n"), GOES_ON),
    "metrics.jsonl with a formula": (appended("metrics.jsonl", b'{"step": 3, "val/$\\\\x^$/loss": 1.0}\n'), GOES_ON),
    "metrics.jsonl a folder": (folder("metrics.jsonl"), "metrics.jsonl: expected a file, found a folder"),
    "events.jsonl cut": (cut("events.jsonl", 0.9), GOES_ON),
    "events.jsonl of strangers": (appended("events.jsonl", b'{"event": "started"}\n{"event": ["a"]}\n[]\n'), GOES_ON),
    "events.jsonl a folder": (folder("events.jsonl"), "events.jsonl"),
    ".lock a folder": (folder(".lock"), ".lock: expected the file by which a run holds"),
    ".lock a link": (link(".lock", "config.yaml"), ".lock: expected the file by which a run holds"),
    ".lock a pipe": (pipe(".lock"), ".lock: expected the file by which a run holds"),
    ".lock a socket": (listening, ".lock: expected the file by which a run holds"),
    ".unfinished a file": (write("checkpoints/.reward-step4.nemo.unfinished", "a"), GOES_ON),
    ".unfinished a link": (link("checkpoints/.reward-step4.nemo.unfinished", "../../precious"), GOES_ON),
    "checkpoints a file": (without("checkpoints", then=write("checkpoints", "a")), "expected a folder to write to"),
    "tokenizer a file": (without("tokenizer", then=write("tokenizer", "a")), "tokenizer"),
    "nemo.log a folder": (folder("nemo.log"), "nemo.log"),
}
"""What is done to a log directory of three steps -> the checkpoint that the run goes on from, or the message."""


@pytest.fixture(scope="module")
def ended(dataset: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Runs to step 4 in touched log directories, and their status before, all in forks of one process."""
    parent = tmp_path_factory.mktemp("touched")
    (parent / "precious").mkdir()
    (parent / "precious" / "kept").write_text("a")
    saves = [f"exp_manager.checkpoint_callback_params.{key}" for key in ("every_n_train_steps=1", "save_last_n=9")]
    options = [*saves, "exp_manager.resume_if_exists=true"]
    first = Job("first", [*training(dataset, parent / "first", base), *options, "trainer.max_steps=3"])
    (made,) = run_forked([first], IMPORTS)
    assert made.status == 0, made.stderr
    jobs = []
    for number, (touch, _) in enumerate(STATES.values()):
        log_dir = parent / str(number)
        shutil.copytree(parent / "first", log_dir)
        touch(log_dir)
        name = [*STATES][number]
        jobs.append(Job(f"status {name}", ["status", str(log_dir)]))
        jobs.append(Job(f"report {name}", ["report", str(log_dir), "--without-model"]))
        jobs.append(
            replace(first, name=name, argv=[*training(dataset, log_dir, base), *options, "trainer.max_steps=4"])
        )
    found = {one.name: one for one in run_forked(jobs, IMPORTS)}
    assert (parent / "precious" / "kept").exists()
    return found


@pytest.mark.parametrize("name", STATES)
def test_a_run_goes_on_or_says_why_not(ended: dict[str, Ended], name: str) -> None:
    run, expected = ended[name], STATES[name][1]
    if expected not in (GOES_ON, FALLS_BACK):
        assert (run.kind, run.stderr.count("error: "), run.stderr.count("\n")) == ("refused", 1, 1), run
        assert expected in run.stderr
        return
    assert run.kind == "read", run.stdout + run.stderr
    assert run.stdout.count("resuming from") == 1
    assert f"{expected}\n" in run.stdout.partition("resuming from")[2]
    if expected == FALLS_BACK:
        told = [line for line in run.stdout.splitlines() if "step3.nemo is damaged: " in line]
        assert len(told) == 1
        assert "set aside as reward-step3.nemo.damaged" in told[0]


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("command", ["status", "report"])
def test_status_and_report_have_no_traceback(ended: dict[str, Ended], command: str, name: str) -> None:
    one = ended[f"{command} {name}"]
    assert one.kind in ("read", "refused"), one.stdout + one.stderr
    assert one.stderr.count("error: ") == (one.kind == "refused")


def test_the_old_metrics_stay_where_they_are_no_run_s(ended: dict[str, Ended], tmp_path: Path) -> None:
    line = next(one for one in ended["metrics.jsonl binary"].stdout.splitlines() if "metrics: " in one)
    log_dir = Path(line.partition("metrics: ")[2])
    assert (log_dir / "metrics.jsonl.damaged").read_bytes() == BINARY
    assert all(json.loads(one)["step"] for one in (log_dir / "metrics.jsonl").read_text().splitlines())
