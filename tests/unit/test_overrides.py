"""What a user types behind a key is what the settings have."""

from pathlib import Path

import pytest

from nemo_bt.cli.arguments import parse
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.score import ScoreRun
from nemo_bt.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "<|endoftext|>", "prefs, final {v2}.jsonl", "split=train.jsonl", "runs/gpt--val_loss=0.52-step=100",
        "it's", 'a "b" c', "back\\slash\\", "{v2}.jsonl", "[odd", "a:b", "x[1]", "(v2) my models", "#1", "50%", "~/a",
    ],
)  # fmt: skip
def test_a_text_is_taken_as_it_stands(text: str) -> None:
    given = ["trainer.max_steps=1", "exp_manager.explicit_log_dir=x", f"model.data.train={text}"]
    settings = load_settings(
        "train", [*given, f"model.tokenizer.pad_token={text}", f"model.data.validation.held={text}"]
    )
    assert settings.model.tokenizer.pad_token == text
    assert settings.model.data.train[0].path == settings.model.data.validation["held"][0].path == [text]
    run = load_settings_of(ScoreRun, "score", [f"score.input={text}", f"score.output={text}.jsonl"])
    assert (run.score.input, run.score.output) == ([text], f"{text}.jsonl")


def test_lists_sections_quotes_and_null_are_hydras() -> None:
    given = ["exp_manager.explicit_log_dir='a b'", "model.data.train=[a.jsonl,{path: b.jsonl, weight: 2}]"]
    settings = load_settings("train", [*given, "model.tokenizer.pad_token=null", "model.optim.betas=[0.9,0.95]"])
    assert settings.exp_manager.log_dir == Path("a b")
    assert [source.path for source in settings.model.data.train] == [["a.jsonl"], ["b.jsonl"]]
    assert settings.model.tokenizer.pad_token is None
    assert load_settings("train", [*given, "model.tokenizer.pad_token=32"]).model.tokenizer.pad_token == "32"
    for text in ("[PAD]", "{pad}", " ends in a space "):
        assert load_settings("train", [*given, f"model.tokenizer.pad_token={text}"]).model.tokenizer.pad_token == text
    assert settings.model.optim.betas == [0.9, 0.95]
    with pytest.raises(UserError, match=r"model\.optim\.lr: .*got '<fast>'"):
        load_settings("train", [*given, "model.optim.lr=<fast>"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.restore_from_path=base"], "settings have no dashes, type model.restore_from_path=base"),
        (["model.restore_from_path", "base"], "got model.restore_from_path: type model.restore_from_path=base"),
        (["trainer.devices"], "got trainer.devices: type trainer.devices=..."),
        (["--nope"], "unknown option --nope\n"),
    ],
)
def test_words_that_are_no_overrides_are_told_as_they_should_be(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["train", *words])
    assert message in capsys.readouterr().err
