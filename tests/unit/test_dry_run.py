"""nemo-bt train --dry-run finds what a run would, counts what it would, and starts and writes nothing."""

import json
import re
from pathlib import Path

import pytest

from nemo_bt.cli.main import run
from nemo_bt.data.synthetic import write_dataset

LAYOUT = ["trainer.devices=4", "model.tensor_model_parallel_size=2", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry") / "data"
    write_dataset(folder)
    return folder


def dry(data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    argv = ["train", "--config-name=quickstart", f"model.data.train={data}/train.parquet", *LAYOUT]
    argv += [f"model.tokenizer.type={data}/tokenizer", f"exp_manager.explicit_log_dir={data}/run", *more, "--dry-run"]
    status = run(argv)
    out, err = capsys.readouterr()
    assert not (data / "run").exists()
    return status, " ".join(out.split()), err


def test_it_counts_steps_streams_and_memory(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, told, _ = dry(
        data, capsys, f"model.data.validation={data}/validation.parquet", "model.global_batch_size=64"
    )
    assert status == 0
    assert "train: 1,188 of 1,188 pairs validation: 396 of 396 pairs" in told
    assert "layout TP2 DP2: 1 x 4 ranks" in told
    assert "steps 111 of 64 pairs" in told  # 6 epochs of 18 whole steps, and what they leave
    assert "of at most 2,048 tokens starts from random weights" in told
    assert "GiB of stage 0 with full streams: weights 0.00" in told
    assert "no validation set" not in told


def test_it_says_what_no_validation_costs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no validation set: nothing tells how good" in dry(data, capsys)[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("model.tensor_model_parallel_size=3", "is not a multiple of"),
        ("model.data.train=nothing.parquet", "no file matches nothing.parquet"),
        ("model.data.chosen_key=good", "no format fits"),
        ("model.tokenizer.pad_token=nobody", "nobody"),
    ],
)
def test_it_refuses_what_a_run_refuses(
    data: Path, capsys: pytest.CaptureFixture[str], wrong: str, message: str
) -> None:
    status, _, told = dry(data, capsys, wrong)
    assert status == 2
    assert message in told


def test_what_an_offloaded_optimizer_takes_of_the_host_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offload = ["model.optim.optimizer_cpu_offload=true", "model.optim.name=distributed_fused_adam"]
    status, told, _ = dry(data, capsys, *offload, "trainer.accelerator=gpu")
    assert status == 0
    assert re.search(r"memory of a rank \S+ GiB of stage 0 .* buffers \S+; on the host 0.0\d+ writes to", told)
    assert json.dumps(str(data / "run"))[1:-1] in told
