"""What the Python API refuses before anything is read or started, and what a rank tells whoever started it."""

import json
from pathlib import Path
from typing import Any

import pytest

import nemo_bt
from nemo_bt.cli.main import run
from nemo_bt.config.model import Settings

NEEDED = ["exp_manager.explicit_log_dir=run", "model.data.train=a.parquet", "model.tokenizer.type=tok"]


def load(*overrides: str, name: str = "train") -> Any:
    return nemo_bt.load_settings(name, ["model=llama_4x256", *NEEDED, *overrides])


def test_a_rank_that_finds_a_mistake_leaves_it_for_the_process_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *NEEDED, "model=llama_4x256", "model.optim.lr=0"]
    assert run(command) == 2
    assert capsys.readouterr().err == "error: model.optim.lr: expected more than 0, got 0.\n"
    monkeypatch.setenv("NEMO_BT_STARTED_HERE", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert run(command) == 2
    assert json.loads((tmp_path / "error.json").read_text())["message"] == (
        "error: model.optim.lr: expected more than 0, got 0."
    )
    assert capsys.readouterr().err == ""


def test_ranks_on_several_nodes_need_a_launcher(tmp_path: Path) -> None:
    settings: Settings = load("trainer.num_nodes=2", f"exp_manager.explicit_log_dir={tmp_path}")
    for call in (nemo_bt.launch, nemo_bt.train):
        with pytest.raises(nemo_bt.UserError, match=r"trainer\.num_nodes > 1: start the ranks with srun or torchrun"):
            call(settings)
