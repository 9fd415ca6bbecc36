"""Nothing of a conversation is lost on the way from odd rows to token ids: each case was lost once."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.errors import UserError
from nemo_bt.scoring.rows import row_reader
from tests.support.format_rows import CHOSEN, REJECTED, TURN, USER, answer
from tests.support.preferences import messages
from tests.support.sources import dropped, open_set, texts, write

PAIR = {"chosen": CHOSEN, "rejected": REJECTED}
SIDES = {"chosen": messages(USER, CHOSEN), "rejected": messages(USER, REJECTED)}
HH = {side: f"\n\nHuman: {USER}\n\nAssistant: {text}" for side, text in PAIR.items()}
TURNS = f"user: {USER}<|end|>assistant: {CHOSEN}<|end|>"
SYSTEM = {"role": "system", "content": "be kind"}
WITH_SYSTEM = f"<|bos|>system: be kind<|end|>{TURNS}"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (SIDES | {"system": "be kind"}, WITH_SYSTEM),
        (HH | {"system": "be kind"}, WITH_SYSTEM),
        ({"prompt": f"\n\nHuman: {USER}\n\nAssistant:", "system": "be kind"} | PAIR, WITH_SYSTEM),
        ({"prompt": [SYSTEM]} | SIDES, WITH_SYSTEM),
        ({"prompt": [SYSTEM, TURN]} | SIDES | {"system": None}, None),
        ({"prompt": messages("a", "b")} | SIDES, f"<|bos|>user: a<|end|>assistant: b<|end|>{TURNS}"),
        ({"prompt": [TURN]} | SIDES, f"<|bos|>{TURNS}"),
        ({"prompt": USER} | SIDES, f"<|bos|>{TURNS}"),
        ({"prompt": "another"} | SIDES, None),
        ({"prompt": "I bring"} | SIDES, None),
        ({"chosen": [SYSTEM, *SIDES["chosen"]], "rejected": [SYSTEM, *SIDES["rejected"]], "system": "other"}, None),
        (
            {"instruction": USER, "history": messages("a", "b")} | PAIR,
            f"<|bos|>user: a<|end|>assistant: b<|end|>{TURNS}",
        ),
        ({"instruction": USER, "history": [["a"]]} | PAIR, None),
        ({side: str(turns).replace("}, {", "}\n {") for side, turns in SIDES.items()}, f"<|bos|>{TURNS}"),
        ({side: str(turns)[:-1] for side, turns in SIDES.items()}, None),
        ({side: text.lstrip() for side, text in HH.items()}, f"<|bos|>{TURNS}"),
        ({side: text.replace("\n", "\r\n") for side, text in HH.items()}, f"<|bos|>{TURNS}"),
        (
            {"prompt": messages(USER, "x")[:1], "chosen": [{"role": "assistant", "tool_calls": [5]}], "rejected": "a"},
            None,
        ),
        (
            {"prompt": USER, "response_1": CHOSEN, "response_2": REJECTED, "winner": "model_a", "score": 3},
            f"<|bos|>{TURNS}",
        ),
    ],
)
def test_a_row_is_read_whole_or_counted(
    row: dict[str, Any], expected: str | None, tmp_path: Path, tokenizer: Any
) -> None:
    keys = {"system_key": "system"} if "system" in row else {}
    file = write(tmp_path / "rows.jsonl", [row] * 2)
    if expected is None:
        with pytest.raises(UserError):
            open_set(file, tokenizer, **keys)
    else:
        assert {chosen for chosen, _ in texts(open_set(file, tokenizer, **keys), tokenizer)} == {expected}


def test_lines_of_text_are_pairs_only_where_they_begin_alike(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="rows of 'text' alone, which are read as NeMo-Aligner writes them"):
        open_set(write(tmp_path / "corpus.jsonl", [{"text": f"Article {i}"} for i in range(12)]), tokenizer)
    rows = [{"text": f"Question {i // 2}? {'good' if i % 2 == 0 else 'bad'}"} for i in range(12)]
    pairs = open_set(write(tmp_path / "blank.jsonl", [rows[0], b"", *rows[1:]]), tokenizer)
    assert all("good" in chosen and "bad" in rejected for chosen, rejected in texts(pairs, tokenizer))
    strange = [*rows[:2], {"text": "xyz"}, rows[3], *rows[4:]]
    file = write(tmp_path / "odd.jsonl", strange * 9)
    assert dropped(open_set(file, tokenizer, "model.data.max_bad_fraction=0.5")) == {"unpaired": 18}


def test_calls_and_tools_that_the_template_leaves_out_are_named(tmp_path: Path, tokenizer: Any) -> None:
    call = {"role": "assistant", "content": "", "function_call": {"name": "fetch", "arguments": "{}"}}
    earlier = [TURN, call, {"role": "function", "content": "hot"}, {"role": "user", "content": "so?"}]
    rows = {
        "assistant: 'fetch'": {side: [*earlier, answer(side)] for side in ("chosen", "rejected")},
        "tools: 'fetch'": SIDES | {"tools": json.dumps([{"type": "function", "function": {"name": "fetch"}}])},
    }
    for number, (named, row) in enumerate(rows.items()):
        with pytest.raises(UserError, match=rf"{named} \(of which the chat template leaves out a part"):
            open_set(write(tmp_path / f"{number}.jsonl", [row] * 3), tokenizer)


def test_what_a_template_writes_as_json_is_not_left_out(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "json.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['content'] | tojson }}{{ eos_token }}{% endfor %}"
    )
    row = {side: messages('say "é"\nnow', side) for side in ("chosen", "rejected")}
    template = f"model.data.chat_template={tmp_path / 'json.jinja'}"
    assert dropped(open_set(write(tmp_path / "rows.jsonl", [row]), tokenizer, template)) == {}


def test_prompts_that_most_answers_repeat_are_asked_about(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"Q {i}?", "chosen": f"Q {i}? good", "rejected": f"Q {i}? bad"} for i in range(11)]
    with pytest.raises(UserError, match="in 11 of the first 12 rows"):
        open_set(write(tmp_path / "rows.jsonl", [*rows, {"prompt": "Q?"} | PAIR]), tokenizer)


def test_a_column_whose_rows_are_filled_late_is_seen(tmp_path: Path, tokenizer: Any) -> None:
    rows = [PAIR | {"prompt": f"Q {i}?", "system": "" if i < 40 else f"rule {i}"} for i in range(80)]
    with pytest.raises(UserError, match="reads nothing of system"):
        open_set(write(tmp_path / "rows.jsonl", rows), tokenizer)
    nested = [PAIR | {"question": {"full_text": f"Q {i}?"}, "source_document": f"d {i}"} for i in range(4)]
    with pytest.raises(UserError, match="reads nothing of question, source_document"):
        open_set(write(tmp_path / "nested.jsonl", nested), tokenizer)


def test_a_csv_of_semicolons_is_read(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt;chosen;rejected\n{USER};{CHOSEN};{REJECTED}\n")
    assert texts(open_set(str(tmp_path / "rows.csv"), tokenizer), tokenizer)[0][0] == f"<|bos|>{TURNS}"
    with pytest.raises(UserError, match=rf"give {tmp_path}/\*\.csv\."):
        open_set(str(tmp_path), tokenizer)


@pytest.mark.parametrize("template", ["User:", r"User: {}\nAssistant: "])
def test_a_template_for_prompts_has_a_place_for_them(template: str, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(Exception, match=r"expected a text with \{\}|found backslash n"):
        open_set(write(tmp_path / "rows.jsonl", [PAIR | {"prompt": USER}]), tokenizer, input_template=template)


def test_where_there_are_tools_the_template_for_tools_is_taken(tmp_path: Path, tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    tools = "{% for t in tools %}{{ t.function.name }} {% endfor %}" + own.chat_template
    own.chat_template = {"default": own.chat_template, "tool_use": tools}
    row = SIDES | {"tools": [{"type": "function", "function": {"name": "fetch", "parameters": {}}}]}
    ((chosen, _),) = texts(open_set(write(tmp_path / "rows.jsonl", [row]), own), own)
    assert "fetch" in chosen
    keys = SourceSettings(path="rows.jsonl")
    scored = row_reader("rows", [{"messages": SIDES["chosen"], "tools": row["tools"]}], keys, True, "reward")
    ((side,),) = scored.sides({"messages": SIDES["chosen"], "tools": row["tools"]})
    assert side.tools == row["tools"]


@pytest.mark.parametrize(
    "start",
    [
        "<|im_start|>user\n",
        "<s>[INST] ",
        "[INST] ",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>",
        "<bos><start_of_turn>",
    ],
)
def test_a_system_message_is_not_put_before_a_text_that_is_rendered(tmp_path: Path, tokenizer: Any, start: str) -> None:
    row = {side: f"{start}{USER}<|end|>{text}<|end|>" for side, text in (("chosen", CHOSEN), ("rejected", REJECTED))}
    file = write(tmp_path / "rows.jsonl", [row | {"system": "Be kind."}] * 3)
    with pytest.raises(UserError, match=r"a system message in its column, beside a text that is rendered already"):
        open_set(file, tokenizer, system_key="system")
    plain = {side: text.removeprefix(start) for side, text in row.items()}
    (pair,) = texts(
        open_set(write(tmp_path / "plain.jsonl", [plain | {"system": "Be kind."}]), tokenizer, system_key="system"),
        tokenizer,
    )
    assert pair[0].startswith(f"<|bos|>Be kind.\n\n{USER}")
