"""What W&B, TensorBoard and SwanLab have of a run, read from their own files: nothing is sent anywhere."""

import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_bt.config.load import load_settings
from nemo_bt.errors import UserError
from nemo_bt.metrics import MARGIN_LIMITS
from nemo_bt.observability.trackers import build_loggers, run_id
from nemo_bt.training.checks import check_settings
from tests.support.runs import nemo_bt, training

_BLOCK = 32768


@pytest.fixture(scope="module")
def log_dir(dataset: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of two sources, ended after three steps, gone on with to five, and reported on without its model."""
    log_dir = tmp_path_factory.mktemp("trackers") / "run"
    half = f"{{path: {dataset / 'random.parquet'}, fraction: 0.5, name: NAME}}"
    argv = [
        *training(dataset, log_dir, base),
        f"model.data.train=[{half.replace('NAME', 'a')}, {half.replace('NAME', 'b')}]",
        "model.global_batch_size=8",
        "trainer.log_every_n_steps=1",
        "trainer.val_check_interval=5",
        "exp_manager.resume_if_exists=true",
        "exp_manager.create_tensorboard_logger=true",
        "exp_manager.create_wandb_logger=true",
        "+exp_manager.wandb_logger_kwargs={project: rewards, tags: [trial]}",
        "exp_manager.create_swanlab_logger=true",
        "+exp_manager.swanlab_logger_kwargs={project: rewards, mode: offline}",
    ]
    for command in (
        [*argv, "trainer.max_steps=3"],
        [*argv, "trainer.max_steps=5"],
        ["report", str(log_dir), "--without-model"],
    ):
        result = nemo_bt(*command, WANDB_MODE="offline", WANDB_SILENT="true")
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stderr == ""
    return log_dir


def logged(log_dir: Path, start: str) -> list[tuple[int, dict[str, float]]]:
    """Steps and values of metrics.jsonl whose names begin so."""
    records = [json.loads(line) for line in (log_dir / "metrics.jsonl").read_text().splitlines()]
    named = [(record["step"], {k: v for k, v in record.items() if k.startswith(start)}) for record in records]
    return [(step, values) for step, values in named if values]


def pictures_of(log_dir: Path) -> set[str]:
    return {f"report/{file.stem}" for file in (log_dir / "report").glob("*.png")}


def test_without_its_model_a_run_has_its_curves(log_dir: Path) -> None:
    found = json.loads((log_dir / "report" / "report.json").read_text())
    assert (found["step"], found["validation"]) == (5, {})
    assert "No model was asked" in (log_dir / "report" / "report.html").read_text()
    assert "curves-sources.png" in {file.name for file in (log_dir / "report").iterdir()}


def test_tensorboard_has_every_number_once(log_dir: Path) -> None:
    events = EventAccumulator(str(log_dir / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    values = logged(log_dir, "train/") + logged(log_dir, "val/")
    assert set(tags["scalars"]) == {key for _, named in values for key in named}
    for key in ("train/loss", "train/source/a/loss", "train/source/b/accuracy", "val/held_out/accuracy"):
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert found == [(step, pytest.approx(named[key])) for step, named in values if key in named]
    assert set(tags["images"]) == pictures_of(log_dir)
    (of_validation,) = events.Histograms("val/held_out/margins")[-1:]
    assert (of_validation.step, sum(of_validation.histogram_value.bucket)) == (5, values[-1][1]["val/held_out/pairs"])
    assert [event.step for event in events.Histograms("train/margins")] == [1, 2, 3, 4, 5]


def wandb_records(file: Path) -> Iterator[Any]:
    """Records of an offline run: blocks of LevelDB's log format, protobuf messages in them."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, whole = Record.FromString(whole), b""
            yield record


def test_wandb_has_one_run_that_goes_on(log_dir: Path) -> None:
    files = sorted((log_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    records = [record for file in files for record in wandb_records(file)]
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert len(files) == len(runs) == 3  # two starts and the report
    assert {run.run_id for run in runs} == {json.loads((log_dir / "trackers.json").read_text())["id"]}
    assert {(run.project, run.display_name, *run.tags) for run in runs} == {("rewards", "reward", "trial")}
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    for start in ("train/", "val/"):
        values = {(step, key): value for step, named in logged(log_dir, start) for key, value in named.items()}
        found = {
            (row["trainer/global_step"], key): row[key]
            for row in rows
            for key in row
            if (row["trainer/global_step"], key) in values
        }
        assert found == {place: value for place, value in values.items() if value is not None}
    names = {key.rsplit("/", 1)[0] for row in rows for key in row if key.startswith("report/")}
    assert names == pictures_of(log_dir)
    margins = [row for row in rows if "val/held_out/margins/values" in row][-1]
    assert sum(margins["val/held_out/margins/values"]) == logged(log_dir, "val/")[-1][1]["val/held_out/pairs"]


def test_wandb_knows_settings_and_software(log_dir: Path) -> None:
    (first, *_) = sorted((log_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    records = wandb_records(first)
    updates = [u for r in records if r.WhichOneof("record_type") == "config" for u in r.config.update]
    config = {update.key or update.nested_key[0]: json.loads(update.value_json) for update in updates}
    assert config["model"]["global_batch_size"] == 8
    assert config["trainer"]["max_steps"] == 3
    assert config["software"]["package megatron-core"].startswith("0.15")
    if shutil.which("git") and (Path.cwd() / ".git").exists():
        assert config["software"]["git revision"]


def test_swanlab_has_the_numbers(log_dir: Path) -> None:
    from swanlab.data.porter.datastore import DataStore

    (first, second, report) = sorted((log_dir / "swanlab").glob("run-*/backup.swanlab"))
    scalars: list[tuple[str, int, float]] = []
    media: set[str] = set()
    for file in (first, second, report):
        store = DataStore()
        store.open_for_scan(str(file))
        for text in store:
            record = json.loads(text)
            data = record["data"] if isinstance(record["data"], dict) else json.loads(record["data"])
            if record["model_type"] == "Scalar":
                scalars.append((data["key"], data["step"], data["metric"]["data"]))
            elif record["model_type"] == "Media":
                media.add(data["key"])
    losses = {step: value for key, step, value in scalars if key == "train/loss"}
    assert losses == {step: pytest.approx(named["train/loss"]) for step, named in logged(log_dir, "train/")}
    assert media == {"train/margins", "val/held_out/margins", *pictures_of(log_dir)}
    config = (first.parent / "files" / "config.yaml").read_text()
    assert "megatron-core" in config


def test_margins_lie_between_the_limits_that_are_drawn() -> None:
    assert all(low < high for low, high in itertools.pairwise(MARGIN_LIMITS))
    assert np.allclose(MARGIN_LIMITS, -np.array(MARGIN_LIMITS)[::-1])


def test_a_run_that_starts_anew_is_another_one(tmp_path: Path) -> None:
    first = run_id(tmp_path, continues=False)
    assert run_id(tmp_path, continues=True) == first
    assert run_id(tmp_path, continues=False) != first


def test_only_the_first_rank_has_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["model.data.train=unused", f"exp_manager.explicit_log_dir={tmp_path}"]
    settings = load_settings("train", [*overrides, "exp_manager.create_tensorboard_logger=true"]).exp_manager
    assert len(build_loggers(settings, 0, continues=False)) == 1
    monkeypatch.setenv("RANK", "1")
    assert build_loggers(settings, 0, continues=False) == []


_START = """
from nemo_bt.config.load import load_settings
from nemo_bt.errors import UserError
from nemo_bt.observability.trackers import build_loggers, tell_start
for tracker in ("wandb", "swanlab"):
    overrides = ["model.data.train=unused", f"exp_manager.explicit_log_dir={log_dir!r}"]
    settings = load_settings("train", [*overrides, f"exp_manager.create_{tracker}_logger=true"])
    try:
        tell_start(build_loggers(settings.exp_manager, 0, continues=False), {})
    except UserError as error:
        with open(f"{log_dir}/said", "a") as said:
            print(error, file=said)
"""


def test_a_login_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "swanlab").mkdir()
    keys = ("WANDB_API_KEY", "WANDB_MODE", "SWANLAB_API_KEY", "SWANLAB_MODE", "NETRC")
    env = {name: value for name, value in os.environ.items() if name not in keys}
    code = f"log_dir = {str(tmp_path)!r}\n{_START}"
    options = {"env": env | {"HOME": str(tmp_path)}, "stdin": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100, check=True, **options)
    said = (tmp_path / "said").read_text().splitlines()
    for tracker, line, offline in zip(("wandb", "swanlab"), said, ("WANDB_MODE=offline", "mode=offline"), strict=True):
        assert line.startswith(f"exp_manager.create_{tracker}_logger=true: ")
        assert f"Log in with `{tracker} login`, or stay offline: " in line
        assert line.endswith(f"{offline}.")


def test_an_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_bt.config.equations.find_spec", lambda _: None)
    overrides = ["model.data.train=unused", f"exp_manager.explicit_log_dir={tmp_path}", "model=llama_4x256"]
    settings = load_settings("train", [*overrides, "exp_manager.create_swanlab_logger=true"])
    with pytest.raises(
        UserError, match=r"create_swanlab_logger=true: install it with pip install 'nemo_bt\[swanlab\]'"
    ):
        check_settings(settings)
