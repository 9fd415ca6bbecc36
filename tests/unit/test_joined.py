"""What stands between a prompt and an answer that nothing renders is said, never guessed; unused margins are told."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.load import load_settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.prepare import tell_unused_margins
from tests.support.format_rows import CHOSEN, REJECTED
from tests.support.sources import open_set, settings_with, texts, write

ASKED = "Which tea?"
RUN = (
    "model=llama_4x256",
    "exp_manager.explicit_log_dir=run",
    "model.data.train=rows.jsonl",
    "model.tokenizer.type=own",
)
PLAIN = "model.data.chat_template=none"


def _pair(asked: str, chosen: str = CHOSEN, rejected: str = REJECTED) -> dict[str, Any]:
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (_pair(ASKED + "\n"), f"{ASKED}\n{CHOSEN}"),
        (_pair(ASKED, f" {CHOSEN}", f" {REJECTED}"), f"{ASKED} {CHOSEN}"),
        (_pair(""), CHOSEN),
        (_pair(ASKED, ASKED + CHOSEN, ASKED + REJECTED) | {"answers_hold_prompt": True}, ASKED + CHOSEN),
        (
            _pair(ASKED, f"{ASKED}\n{CHOSEN}", f"{ASKED}\n{REJECTED}") | {"answers_hold_prompt": True},
            f"{ASKED}\n{CHOSEN}",
        ),
        (_pair(ASKED) | {"join": ""}, ASKED + CHOSEN),
        (_pair(ASKED) | {"join": "\n\n"}, f"{ASKED}\n\n{CHOSEN}"),
        (_pair(ASKED + "\n") | {"join": " "}, f"{ASKED}\n {CHOSEN}"),
        (_pair(ASKED) | {"input_template": "Q: {} A:"}, f"Q: {ASKED} A:{CHOSEN}"),
    ],
)
def test_prompt_and_answer_are_joined_as_the_settings_or_the_texts_say(
    tmp_path: Path, tokenizer: Any, row: dict[str, Any], said: str
) -> None:
    keys = {name: row.pop(name) for name in ("answers_hold_prompt", "join", "input_template") if name in row}
    (pair,) = texts(open_set(write(tmp_path / "rows.jsonl", [row]), tokenizer, PLAIN, **keys), tokenizer)
    assert pair[0] == f"<|bos|>{said}<|end|>"


@pytest.mark.parametrize(
    "row",
    [
        _pair(ASKED),
        {"prompt": ASKED, "completions": [CHOSEN, REJECTED], "score": [2, 1]},
        {"prompt": ASKED, "response_1": CHOSEN, "response_2": REJECTED, "preference_strength": 1},
        {"instruction": ASKED, "input": "Green or black.", "chosen": CHOSEN, "rejected": REJECTED},
    ],
)
def test_nothing_between_prompt_and_answer_is_asked_about(tmp_path: Path, tokenizer: Any, row: dict[str, Any]) -> None:
    file = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(UserError, match="with nothing between prompt and answer") as refused:
        open_set(file, tokenizer, PLAIN)
    assert r"Set model.data.join=$'\n' (typed so in a shell" in str(refused.value)
    assert f"and '{CHOSEN[:20]}'" in str(refused.value)
    assert len(open_set(file, tokenizer, PLAIN, join="").epoch) == 1
    assert len(open_set(file, tokenizer).epoch) == 1  # the tokenizer's template renders them


def test_a_join_is_taken_as_typed() -> None:
    for typed, join in (("\n", "\n"), ("", ""), (" ", " "), ("''", ""), ('" | "', " | "), ("null", None)):
        settings = load_settings("train", [*RUN, f"model.data.join={typed}"])
        assert settings.model.data.join == join
        assert settings.model.data.train[0].join == join
    with pytest.raises(UserError, match=r"model\.data\.join.*expected line ends, found backslash n"):
        load_settings("train", [*RUN, r"model.data.join=\n"])


def test_validation_may_lack_the_margins_of_training(tmp_path: Path, tokenizer: Any) -> None:
    rows = [_pair(ASKED + " ")] * 3
    strong = write(tmp_path / "strong.jsonl", [row | {"margin": 2.0} for row in rows])
    plain = write(tmp_path / "plain.jsonl", rows)
    needs = [*RUN, f"model.data.train={strong}", "model.data.max_bad_fraction=1"]  # the same answers in both
    for term, is_fine in (("margin", True), ("scale", False)):
        settings = load_settings("train", [*needs, f"model.data.validation={plain}", f"model.loss.{term}=true"])
        told = io.StringIO()
        if is_fine:
            load_sets(settings, tokenizer, True, Terminal(told))
            assert "plain: no pair has a margin; its loss is without one" in told.getvalue()
        else:
            with pytest.raises(UserError, match="no pair of plain has a margin"):
                load_sets(settings, tokenizer, True, Terminal(told))


@pytest.mark.parametrize(("override", "is_told"), [("", True), ("model.loss.margin=true", False)])
def test_margins_that_no_loss_uses_are_told_once(tmp_path: Path, tokenizer: Any, override: str, is_told: bool) -> None:
    file = write(tmp_path / "strong.jsonl", [_pair(ASKED + " ") | {"margin": 2.0}] * 3)
    plain = write(tmp_path / "plain.jsonl", [_pair(ASKED + " ")] * 3)
    told = io.StringIO()
    settings = settings_with(*([override] if override else []))
    for path in (file, plain) if is_told else (file,):
        data = replace(settings.model.data, train=[SourceSettings(path=[path])])
        own = replace(settings, model=replace(settings.model, data=data))
        train = load_sets(own, tokenizer, False, Terminal(None))["train"]
        tell_unused_margins(own, train, Terminal(told))
    line = "the margins of strong are not used; model.loss.margin and model.loss.scale use them\n"
    assert told.getvalue() == line * is_told
