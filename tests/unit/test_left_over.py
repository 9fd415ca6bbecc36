"""Columns with a part of the conversation that no key reads stop a run, and the message says what to type."""

from pathlib import Path
from typing import Any

import pytest

from nemo_bt.data.read.chunk import CHUNK_ROWS
from nemo_bt.errors import UserError
from tests.support.format_rows import CHOSEN, REJECTED, TURN, USER, answer
from tests.support.preferences import messages
from tests.support.sources import open_set, texts, write

PAIR = {"chosen": CHOSEN, "rejected": REJECTED}


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (PAIR | {"system": "s", "question": "q"}, "Set model.data.prompt_key=question model.data.system_key=system"),
        (PAIR | {"query": "q"}, "Set model.data.prompt_key=query to use"),
        (PAIR | {"prompt": "p", "context": "c"}, "Set model.data.prompt_key or system_key to use it"),
        (PAIR | {"prompt": "p", "system_prompt": "s"}, "Set model.data.system_key=system_prompt to use"),
        (PAIR | {"chat_history": messages("earlier", "so")}, "Set model.data.prompt_key=chat_history to use"),
    ],
)
def test_a_part_of_the_conversation_is_not_left_out_in_silence(
    tmp_path: Path, tokenizer: Any, row: dict[str, Any], advice: str
) -> None:
    file = write(tmp_path / "rows.parquet", [row] * 3)
    with pytest.raises(UserError, match=r"reads nothing of .*: a part of the conversation would be left") as refused:
        open_set(file, tokenizer)
    assert advice in str(refused.value)
    assert "model.data.ignore_columns=[" in str(refused.value)
    ignored = [name for name in row if name not in ("chosen", "rejected", "prompt")]
    assert len(open_set(file, tokenizer, ignore_columns=ignored).epoch) == 3
    if "question" in row:
        (pair, *_) = texts(open_set(file, tokenizer, prompt_key="question", system_key="system"), tokenizer)
        assert pair[0] == f"<|bos|>system: s<|end|>user: q<|end|>assistant: {CHOSEN}<|end|>"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_a_column_that_late_rows_fill_first_is_no_exception(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    rows = [PAIR | {"question": "", "note": ""} for _ in range(CHUNK_ROWS + 40)]
    rows[-3] |= {"question": "What is tea?"}
    file = write(tmp_path / f"rows.{kind}", rows)
    message = rf"rows\.{kind} from row {CHUNK_ROWS}: .* reads nothing of question: .*model\.data\.prompt_key=question"
    with pytest.raises(UserError, match=message):
        open_set(file, tokenizer)
    assert len(open_set(file, tokenizer, ignore_columns=["question"]).epoch) == len(rows)
    rows[-3] |= {"question": "", "note": "seen by two"}
    pairs = open_set(write(tmp_path / f"noted.{kind}", rows), tokenizer)
    assert "note" in pairs.sources[0].drop_report.unread


def test_columns_and_fields_of_images_are_refused_by_name(tmp_path: Path, tokenizer: Any) -> None:
    sides = {side: messages(USER, side) for side in ("chosen", "rejected")}
    file = write(tmp_path / "column.jsonl", [sides | {"images": ["tea.png"], "image_id": 5}] * 3)
    message = (
        r"reads nothing of images: .* Only text can be judged\. Set model\.data\.ignore_columns=\[images\] to train"
    )
    with pytest.raises(UserError, match=message):
        open_set(file, tokenizer)
    assert len(open_set(file, tokenizer, ignore_columns=["images"]).epoch) == 3
    none = write(tmp_path / "none.jsonl", [sides | {"images": [], "video": None}] * 3)
    assert len(open_set(none, tokenizer).epoch) == 3
    field = {side: [TURN | {"images": ["tea.png"]}, answer(side)] for side in ("chosen", "rejected")}
    with pytest.raises(UserError, match=r"'chosen' has a message with images"):
        open_set(write(tmp_path / "field.jsonl", [field] * 3), tokenizer)


def test_beside_bare_texts_a_column_of_sentences_is_a_prompt(tmp_path: Path, tokenizer: Any) -> None:
    rows = [PAIR | {"title": f"Tea number {i}", "note": "the same", "id": f"row {i % 2}"} for i in range(8)]
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"reads nothing of title: .* Set model\.data\.prompt_key=title to use"):
        open_set(file, tokenizer)
    assert len(open_set(file, tokenizer, prompt_key="title").epoch) == 8


@pytest.mark.parametrize("key", ["prompt_key", "system_key"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_that_is_named_and_not_there_is_refused(tmp_path: Path, tokenizer: Any, key: str, suffix: str) -> None:
    file = write(tmp_path / f"rows.{suffix}", [PAIR | {"question": "q", "rules": None}] * 3)
    message = rf"model\.data\.{key}=qestion, but there is no such column: found chosen, question, rejected, rules\."
    with pytest.raises(UserError, match=message):
        open_set(file, tokenizer, **{key: "qestion"})
    assert len(open_set(file, tokenizer, prompt_key="question", system_key="rules").epoch) == 3
