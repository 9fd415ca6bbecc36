"""What the Python API refuses before anything is read or started, and what a rank tells whoever started it."""

import json
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from torch import Tensor

from nemo_bt import api, files
from nemo_bt.cli.main import run
from nemo_bt.config.custom import describe, load_object
from nemo_bt.config.loss import CustomFunction
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.launching.signals import StopRequest
from nemo_bt.observability.events import read_events, telling_failure
from nemo_bt.scoring.scorer import RewardScorer

NEEDED = ["exp_manager.explicit_log_dir=run", "model.data.train=a.parquet", "model.tokenizer.type=tok"]


def load(*overrides: str, name: str = "train") -> Any:
    return api.load_settings(name, ["model=llama_4x256", *NEEDED, *overrides])


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


def test_where_a_mistake_cannot_be_left_the_rank_says_it_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEMO_BT_STARTED_HERE", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "error.json"))
    assert run(["train", *NEEDED, "model=llama_4x256", "model.optim.lr=0"]) == 2
    assert capsys.readouterr().err == "error: model.optim.lr: expected more than 0, got 0.\n"


def test_a_rank_that_is_ended_while_it_leaves_its_mistake_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reads what is there of a rank that failed, and half of it would end the process that reads."""
    monkeypatch.setenv("NEMO_BT_STARTED_HERE", "1")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    def end(*_: Path) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(files, "put_in_place", end)
    with pytest.raises(SystemExit):
        run(["train", *NEEDED, "model=llama_4x256", "model.optim.lr=0"])
    assert not list(tmp_path.iterdir())


def test_ranks_on_several_nodes_need_a_launcher(tmp_path: Path) -> None:
    settings: Settings = load("trainer.num_nodes=2", f"exp_manager.explicit_log_dir={tmp_path}")
    for call in (api.launch, api.train):
        with pytest.raises(UserError, match=r"trainer\.num_nodes > 1: start the ranks with srun or torchrun"):
            call(settings)


def test_settings_of_another_job_are_refused() -> None:
    for call, name, others in ((api.train, "train", "plan"), (api.launch, "train", "plan")):
        with pytest.raises(UserError, match=rf'load_settings\("{name}", \[...\]\), got PlanRun'):
            call(load("cluster=h100", name=others))


def top(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor, weight_P: Tensor) -> Tensor:
    return chosen_P


def factory(number: int) -> Any:
    return lambda *_: number


def test_checkpoints_of_earlier_versions_find_what_they_name() -> None:
    """The context of a .nemo names classes by their modules; CustomFunction was in that of the settings."""
    assert import_module("nemo_bt.config.model").CustomFunction is CustomFunction


def test_a_loss_from_python_is_named_by_file_where_that_gives_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe(top) == CustomFunction(path=__file__, name="top")
    monkeypatch.setattr(top, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "top", top, raising=False)
    of_script = describe(top)
    assert (of_script.path, of_script.name) == (None, "top")
    assert len(str(of_script.source)) == 64
    one, five = (describe(function) for function in (lambda *_: 1, lambda *_: 5))  # fmt: skip
    assert (one.path, one.source) == (None, five.source)  # one line has both, and is the text of both
    other = describe(lambda *_: 6)
    assert len(str(other.source)) == 64
    assert other.source != one.source


@pytest.mark.parametrize("without_text", [factory(3), partial(top), MagicMock(), eval("lambda *_: 1")])
def test_a_loss_without_a_text_of_its_own_is_told_by_it(without_text: Any) -> None:
    assert (describe(without_text).path, describe(without_text).source) == (None, "")


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(UserError, match=r"model\.loss\.custom_fn\.path: .*a\.py, line 2: invalid syntax"):
        load_object(str(tmp_path / "a.py"), "f", "model.loss.custom_fn")


@pytest.mark.parametrize("overrides", ["trainer.devices=1", [1]])
def test_overrides_are_a_list_of_texts(overrides: Any) -> None:
    with pytest.raises(UserError, match=r"overrides: expected a list of key=value texts, got "):
        api.load_settings("train", overrides)


def test_the_limit_counts_from_where_it_is_told_to() -> None:
    assert StopRequest(60.0, ends_on_sigterm=False, start_s=time.monotonic() - 61).code() != 0
    assert StopRequest(0.5, ends_on_sigterm=False, start_s=time.monotonic()).code() == 0  # this process is older


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("one\nand two"), ["one\nand two"]),
        (ZeroDivisionError("one\nand two"), ["ZeroDivisionError: one"]),
        (KeyboardInterrupt(), ["KeyboardInterrupt: KeyboardInterrupt()"]),
        (SystemExit(75), []),
    ],
)
def test_a_run_that_fails_leaves_word(error: BaseException, told: list[str], tmp_path: Path) -> None:
    with pytest.raises(type(error)), telling_failure(tmp_path, 1):
        raise error
    assert [(event["error"], event["rank"]) for event in read_events(tmp_path)] == [(text, 1) for text in told]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("fit", "train"),
        ("RewardTrainer", "train"),
        ("trian", "train"),
        ("pipeline", "RewardScorer"),
        ("nonsense", None),
    ],
)
def test_a_name_that_is_not_there_leads_to_one_that_is(wrong: str, right: str | None) -> None:
    with pytest.raises(AttributeError) as refused:
        getattr(import_module("nemo_bt"), wrong)
    assert ("Did you mean" in str(refused.value)) == (right is not None)
    assert right is None or f"Did you mean {right}?" in str(refused.value)
    assert "It has " in str(refused.value)


def test_a_method_that_a_scorer_does_not_have_is_answered_with_those_it_has() -> None:
    scorer = RewardScorer.__new__(RewardScorer)
    with pytest.raises(
        AttributeError, match=r"RewardScorer has no 'predict'\. It has score\(conversation\), score_batch"
    ):
        scorer.predict("text")
