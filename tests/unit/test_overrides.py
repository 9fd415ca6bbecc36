"""What a user types behind a key is what the settings have."""

import copy
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from nemo_bt.cli.arguments import parse
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.score import ScoreRun
from nemo_bt.errors import UserError
from tests.support.settings import NEEDED

SMALL = ["model=llama_4x256", *NEEDED]


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


@pytest.mark.parametrize(
    ("typed", "sets"),
    [
        ("model.data.validation=hh.val.jsonl", {"hh": ["hh.val.jsonl"]}),
        ("model.data.validation=my sets/a, b.jsonl", {"a, b": ["my sets/a, b.jsonl"]}),
        ("model.data.validation=[x/hh.jsonl,helpful.parquet]", {"hh": ["x/hh.jsonl"], "helpful": ["helpful.parquet"]}),
        ("model.data.validation={path: [a.jsonl, b.jsonl], name: both}", {"both": ["a.jsonl", "b.jsonl"]}),
        ("model.data.validation.mine=a.jsonl", {"mine": ["a.jsonl"]}),
        ("+model.data.validation.mine=a.jsonl", {"mine": ["a.jsonl"]}),
        ("model.data.validation={mine: a.jsonl}", {"mine": ["a.jsonl"]}),
    ],
)
def test_a_validation_set_has_the_name_of_its_file_where_it_is_given_none(
    typed: str, sets: dict[str, list[str]]
) -> None:
    found = load_settings("train", [*SMALL, typed, "model.data.prompt_key=question"]).model.data.validation
    assert {name: source.path for name, (source,) in found.items()} == sets
    assert all(source.prompt_key == "question" for (source,) in found.values())


def test_what_nemo_adds_to_hydras_choices_changes_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    ConfigStore.instance().store(group="trainer", name="trainer", node={})  # as importing nemo.core.config does
    with pytest.raises(UserError, match=r"^trainer: expected a section of keys, got 5\.$"):
        load_settings("train", [*SMALL, "trainer=5"])
