"""The same pairs in the column types that writers of parquet choose, and in texts that users rendered themselves."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_bt.errors import UserError
from tests.support.format_rows import CHOSEN, REJECTED, USER
from tests.support.preferences import messages
from tests.support.sources import conversations, open_set, texts, write

FLAT = {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]}
WHOLE = {"chosen": [messages(USER, CHOSEN)], "rejected": [messages(USER, REJECTED)]}
TURN = [("role", pa.string()), ("content", pa.string())]
WIDE = [*TURN, ("name", pa.string()), ("tool_calls", pa.list_(pa.string()))]
STRUCT = pa.struct([(name, pa.list_(kind)) for name, kind in TURN])


def structs(rows: list[Any]) -> list[Any]:
    return [{name: [turn[name] for turn in row] for name, _ in TURN} for row in rows]


TABLES = {
    "large_string": pa.table({name: pa.array(column, pa.large_string()) for name, column in FLAT.items()}),
    "dictionary": pa.table({name: pa.array(column).dictionary_encode() for name, column in FLAT.items()}),
    "string_view": pa.table({name: pa.array(column, pa.string_view()) for name, column in FLAT.items()}),
    "wide messages": pa.table({n: pa.array(column, pa.list_(pa.struct(WIDE))) for n, column in WHOLE.items()}),
    "struct of lists": pa.table({name: pa.array(structs(column), STRUCT) for name, column in WHOLE.items()}),
    "json": pa.table({name: [json.dumps(one) for one in column] for name, column in WHOLE.items()}),
    "null prompt": pa.table({"prompt": pa.nulls(1)} | WHOLE),
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_type_gives_the_same_conversation(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    pq.write_table(TABLES[kind], tmp_path / "rows.parquet")
    (pair,) = texts(open_set(str(tmp_path / "rows.parquet"), tokenizer), tokenizer)
    assert pair == tuple(f"<|bos|>user: {USER}<|end|>assistant: {side}<|end|>" for side in (CHOSEN, REJECTED))


def test_arrays_of_pandas_are_lists(tmp_path: Path, tokenizer: Any) -> None:
    frame = pd.DataFrame({name: [np.array(one, dtype=object) for one in column] for name, column in WHOLE.items()})
    frame.set_index(pd.Index([7], name="row")).to_parquet(tmp_path / "rows.parquet")
    (pair,) = texts(open_set(str(tmp_path / "rows.parquet"), tokenizer), tokenizer)
    assert pair[1] == f"<|bos|>user: {USER}<|end|>assistant: {REJECTED}<|end|>"


def test_bytes_are_refused_by_name(tmp_path: Path, tokenizer: Any) -> None:
    table = pa.table({name: pa.array([column[0].encode()], pa.binary()) for name, column in FLAT.items()})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"no format fits, found columns prompt \(binary\), chosen \(binary\)"):
        open_set(str(tmp_path / "rows.parquet"), tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}",
        "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|over|>\n{% endfor %}",
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|over|>{% endfor %}",
    ],
    ids=["eos", "another token and a newline", "another token"],
)
def test_a_text_that_was_rendered_before_has_the_ids_of_its_messages(
    tmp_path: Path, tokenizer: Any, template: str
) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|over|>"]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokenizer.name_or_path = str(tmp_path / "tokenizer")
    rendered = [{side: tokenizer.apply_chat_template(column[0], tokenize=False) for side, column in WHOLE.items()}]
    of_texts = open_set(write(tmp_path / "texts.jsonl", rendered), tokenizer)
    of_messages = open_set(write(tmp_path / "messages.jsonl", [{n: c[0] for n, c in WHOLE.items()}]), tokenizer)
    assert of_texts.sources[0].format == "text"
    for text, message in zip(conversations(of_texts, 0), conversations(of_messages, 0), strict=True):
        assert text.tolist() == message.tolist()
