"""What people's files have beside the plain cases: tools, parts, several answers, ties, columns left over."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from nemo_bt.data.formats.turns import without_nulls
from nemo_bt.errors import UserError
from tests.support.format_rows import CHOSEN, HH, REJECTED, TURN, USER, answer
from tests.support.preferences import messages
from tests.support.sources import conversations, dropped, open_set, texts, write

TOOLS = [{"type": "function", "function": {"name": "fetch", "parameters": {"type": "object", "properties": {}}}}]
TOOL_TEMPLATE = (
    "{{ bos_token }}{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{% for m in messages %}"
    "{{ m['role'] }}: {{ m['content'] or '' }}{% for c in m.get('tool_calls') or [] %}<call>{{ c.function | tojson }}"
    "{% endfor %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
PAIR = {"chosen": CHOSEN, "rejected": REJECTED}


def call(what: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "fetch", "arguments": {"what": what}}}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_calls_of_tools_are_rendered_as_transformers_does(tmp_path: Path, tokenizer: Any, suffix: str) -> None:
    (tmp_path / "tools.jinja").write_text(TOOL_TEMPLATE)
    sides = {
        side: [TURN, {"role": "assistant", "content": None, "tool_calls": call(side)}]
        for side in ("chosen", "rejected")
    }
    middle = [TURN, {"role": "assistant", "content": "", "tool_calls": call("tea")}, {"role": "tool", "content": "hot"}]
    turns = {"prompt": middle, "chosen": [answer(CHOSEN)], "rejected": [answer(REJECTED)]}
    for name, row in (("call", sides), ("turn", turns)):
        tools = json.dumps(TOOLS) if suffix == "parquet" else TOOLS
        file = write(tmp_path / f"{name}.{suffix}", [row | {"tools": tools}])
        pairs = open_set(file, tokenizer, f"model.data.chat_template={tmp_path / 'tools.jinja'}")
        if suffix == "parquet":  # which sorts the fields of a struct
            row = without_nulls(pq.read_table(file).to_pylist()[0])
        for side, ids in zip(("chosen", "rejected"), conversations(pairs, 0), strict=True):
            asked = row[side] if name == "call" else [*row["prompt"], *row[side]]
            expected = tokenizer.apply_chat_template(asked, tools=TOOLS, chat_template=TOOL_TEMPLATE, tokenize=True)
            assert ids.tolist() == expected


def test_what_the_template_leaves_out_is_bad_and_named(tmp_path: Path, tokenizer: Any) -> None:
    drops = (
        "{{ bos_token }}{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: "
        "{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    )
    (tmp_path / "drops.jinja").write_text(drops)
    template = f"model.data.chat_template={tmp_path / 'drops.jinja'}"
    thought = {side: messages(USER, f"<think>{side}</think>the same") for side in ("chosen", "rejected")}
    file = write(tmp_path / "rows.jsonl", [thought] * 3)
    with pytest.raises(UserError, match=r"of which the chat template leaves out a part.*chat_template") as refused:
        open_set(file, tokenizer, template)
    assert "row 0: assistant: 'chosen' (of which" in str(refused.value)
    system = {
        side: [{"role": "system", "content": "be kind"}, *messages(USER, side)] for side in ("chosen", "rejected")
    }
    calls = {
        side: [TURN, {"role": "assistant", "content": side, "tool_calls": call("x")}] for side in ("chosen", "rejected")
    }
    file = write(tmp_path / "more.jsonl", [system, calls, {side: messages(USER, side) for side in system}])
    pairs = open_set(file, tokenizer, template, "model.data.max_bad_fraction=1")
    assert dropped(pairs) == {"lost": 2}
    earlier = {side: [*messages("a", "<think>b</think>c"), *messages(USER, side)] for side in ("chosen", "rejected")}
    assert dropped(open_set(write(tmp_path / "earlier.jsonl", [earlier]), tokenizer, template)) == {}


def test_images_are_refused_by_name(tmp_path: Path, tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "x"}}]
    row = {side: [{"role": "user", "content": parts}, answer(side)] for side in ("chosen", "rejected")}
    with pytest.raises(UserError, match=r"'chosen.content' has a part of type image_url \(with parts that are no text"):
        open_set(write(tmp_path / "rows.jsonl", [row]), tokenizer)


def test_a_reasoning_that_the_template_leaves_out_of_the_last_answer_is_named(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        row = {side: [TURN, answer(side) | {name: f"so {side}"}] for side in ("chosen", "rejected")}
        with pytest.raises(UserError, match=r"assistant: 'so chosen' \(of which the chat template leaves out a part"):
            open_set(write(tmp_path / f"{name}.jsonl", [row] * 3), tokenizer)


def test_one_chosen_stands_against_each_of_several_rejected(tmp_path: Path, tokenizer: Any) -> None:
    several = ["no", "never", "not now"]
    for row in (
        {"prompt": USER, "chosen": CHOSEN, "rejected": several},
        {"messages": messages(USER, CHOSEN), "rejected_response": several},
    ):
        found = texts(open_set(write(tmp_path / "rows.jsonl", [row]), tokenizer), tokenizer)
        assert [pair[1] for pair in found] == [f"<|bos|>user: {USER}<|end|>assistant: {no}<|end|>" for no in several]
        assert {pair[0] for pair in found} == {f"<|bos|>user: {USER}<|end|>assistant: {CHOSEN}<|end|>"}
        tmp_path.joinpath("rows.jsonl").unlink()


def test_ties_of_an_arena_are_left_out_and_earlier_answers_may_differ(tmp_path: Path, tokenizer: Any) -> None:
    def battle(winner: str) -> dict[str, Any]:
        sides = [[*messages("a", f"{name} first"), *messages("b", f"{name} then")] for name in "xy"]
        return {"conversation_a": sides[0], "conversation_b": sides[1], "winner": winner, "model_a": "m", "judge": "j"}

    rows = [battle(winner) for winner in ("model_b", "tie", "tie (bothbad)", "both_bad", "model_a")]
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer)
    assert dropped(pairs) == {"tie": 3}
    assert ["y first" in chosen for chosen, _ in texts(pairs, tokenizer)] == [True, False]
    with pytest.raises(UserError, match=r"'winner' is 'model_c', expected model_a or model_b or tie"):
        open_set(write(tmp_path / "odd.jsonl", [battle("model_c")]), tokenizer)


def test_alpacas_input_and_history_belong_to_the_prompt(tmp_path: Path, tokenizer: Any) -> None:
    row = PAIR | {"instruction": "Sum up.", "input": "Tea is hot.", "history": [["Hi", "Hello"]], "system": "be brief"}
    (pair,) = texts(open_set(write(tmp_path / "rows.jsonl", [row]), tokenizer), tokenizer)
    assert pair[0] == (
        "<|bos|>system: be brief<|end|>user: Hi<|end|>assistant: Hello<|end|>user: Sum up.\nTea is hot.<|end|>"
        f"assistant: {CHOSEN}<|end|>"
    )


def test_lines_of_nemo_aligner_are_pairs_wherever_a_chunk_ends(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": f"question {i // 2} answer {'better' if i % 2 == 0 else 'worse'} {i}"} for i in range(2054)]
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer)
    found = texts(pairs, tokenizer)
    assert (len(found), dropped(pairs)) == (1027, {})
    assert all("better" in chosen and "worse" in rejected for chosen, rejected in found)
    assert all(chosen.split()[1] == rejected.split()[1] for chosen, rejected in found)


EXTRA_ID = "<extra_id_0>System\n\n<extra_id_1>User\nWhat is {i}?\n<extra_id_1>Assistant\nIt is {a}.\n<extra_id_2>"
LINES = {"extra_id": EXTRA_ID, "hh": "\n\nHuman: What is {i}?\n\nAssistant: It is {a}."}


@pytest.mark.parametrize("form", LINES)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_line_that_is_lost_turns_no_later_pair_round(tmp_path: Path, tokenizer: Any, form: str, suffix: str) -> None:
    lines = [{"text": LINES[form].format(i=1000 + i, a=a)} for i in range(1100) for a in ("right", "wrong")]
    del lines[2001]
    file = write(tmp_path / f"odd.{suffix}", lines)
    with pytest.raises(UserError, match=r"row 2000: .*without a neighbour that begins"):
        open_set(file, tokenizer)
    del lines[2000]
    assert len(open_set(write(tmp_path / f"whole.{suffix}", lines), tokenizer).epoch) == 1099
    del lines[2101], lines[2040]  # an even number: the lines between them are not paired
    pairs = open_set(write(tmp_path / f"even.{suffix}", lines), tokenizer, "model.data.max_bad_fraction=0.1")
    found = texts(pairs, tokenizer)
    assert all("right" in chosen and "wrong" in rejected for chosen, rejected in found)
    assert len(found) == 1099 - 31
    assert dropped(pairs) == {"unpaired": 60}
    with pytest.raises(UserError, match=r"dropped 60 without a neighbour .* A line is missing, or one too many"):
        open_set(write(tmp_path / f"few.{suffix}", lines), tokenizer)


def test_plain_lines_that_lose_track_stop(tmp_path: Path, tokenizer: Any) -> None:
    lines = [{"text": f"question {1000 + i // 2} answer {i % 2}"} for i in range(3000)]
    del lines[1501]
    with pytest.raises(UserError, match=r"odd\.jsonl from row \d+: lines are read in twos, .* do not begin alike"):
        open_set(write(tmp_path / "odd.jsonl", lines), tokenizer)


def test_lines_that_are_no_pairs_from_the_start_are_told_where(tmp_path: Path, tokenizer: Any) -> None:
    lines = [{"text": EXTRA_ID.format(i=1000 + i, a=a)} for i in range(20) for a in ("right", "wrong")]
    del lines[7]
    with pytest.raises(
        UserError, match=r"rows of 'text' alone, .* same prompt: rows 6 and 7, say\. If a line is missing"
    ):
        open_set(write(tmp_path / "odd.jsonl", lines), tokenizer)
    last = lines[6:37]
    with pytest.raises(UserError, match=r"without a neighbour that begins"):
        open_set(write(tmp_path / "forced.jsonl", last), tokenizer, format="nemo_aligner")


def test_columns_that_repeat_the_conversation_or_describe_it_are_fine_and_shown(tmp_path: Path, tokenizer: Any) -> None:
    row = {
        "prompt": USER, "prompt_id": "1", "messages": messages(USER, CHOSEN), "source": "here", "question_type": "x",
        **{side: messages(USER, text) for side, text in PAIR.items()},
    }  # fmt: skip
    pairs = open_set(write(tmp_path / "rows.jsonl", [row]), tokenizer)
    assert pairs.accounts[0].describe("rows") == (
        "rows: 1 of 1 pairs; not read: messages, prompt_id, question_type, source"
    )


def test_answers_that_hold_the_prompt_are_asked_about(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": USER, "chosen": f"{USER} {CHOSEN}", "rejected": f"{USER} {REJECTED}"}] * 2
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"begin with 'prompt' in 2 of the first 2 rows.*answers_hold_prompt=true"):
        open_set(file, tokenizer)
    (pair, _) = texts(open_set(file, tokenizer, answers_hold_prompt=True), tokenizer)
    assert pair[0] == f"<|bos|>user: {USER}<|end|>assistant: {CHOSEN}<|end|>"
    (pair, _) = texts(open_set(file, tokenizer, answers_hold_prompt=False), tokenizer)
    assert pair[0] == f"<|bos|>user: {USER}<|end|>assistant: {USER} {CHOSEN}<|end|>"


def test_an_input_template_renders_prompts_of_text(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", [PAIR | {"prompt": USER}])
    (pair,) = texts(open_set(file, tokenizer, input_template="User: {}\nAssistant: "), tokenizer)
    assert pair[0] == f"<|bos|>User: {USER}\nAssistant: {CHOSEN}<|end|>"


def test_tables_of_text_are_read(tmp_path: Path, tokenizer: Any) -> None:
    text = 'prompt,chosen,rejected,id\n"some tea","I ""bring""\r\ntea.",no,1\nsome tea,,no,2\nsome tea,yes\n'
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        file = tmp_path / f"rows.{suffix}"
        file.write_bytes(b"\xef\xbb\xbf" + text.replace(",", mark).encode())
        pairs = open_set(str(file), tokenizer, "model.data.max_bad_fraction=1")
        assert dropped(pairs) == {"missing": 1, "unreadable": 1}
        assert texts(pairs, tokenizer)[0][0] == '<|bos|>user: some tea<|end|>assistant: I "bring"\r\ntea.<|end|>'


def test_byte_order_marks_are_no_part_of_a_file(tmp_path: Path, tokenizer: Any) -> None:
    rows = [PAIR | {"prompt": f"{USER} {i}"} for i in range(3)]
    lines = "\r\n".join(map(json.dumps, rows)) + "\r\n"
    array = json.dumps(rows, indent=2).replace("\n", "\r\n")
    for name, text in (
        ("lines.jsonl", lines),
        ("lines.json", lines),
        ("array.json", array),
        ("one.json", json.dumps(rows)),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        pairs = open_set(str(tmp_path / name), tokenizer)
        assert (len(pairs.epoch), dropped(pairs)) == (3, {})


def test_folders_of_save_to_disk_are_read_as_datasets_reads_them(tmp_path: Path, tokenizer: Any) -> None:
    rows = Dataset.from_list([PAIR | {"prompt": f"{USER} {i}"} for i in range(6)])
    (kept := rows.select([1, 4])).save_to_disk(tmp_path / "some")
    DatasetDict({"train": rows, "test": kept}).save_to_disk(tmp_path / "splits")
    found = texts(open_set(str(tmp_path / "some"), tokenizer), tokenizer)
    assert [pair[0].split("<|end|>")[0] for pair in found] == [f"<|bos|>user: {USER} {i}" for i in (1, 4)]
    assert len(open_set(str(tmp_path / "splits"), tokenizer).epoch) == 6
    assert len(open_set(str(tmp_path / "splits"), tokenizer, split="test").epoch) == 2
    with pytest.raises(UserError, match=r"^[\w.]+: \S+ has the splits train, test, none is called validation"):
        open_set(str(tmp_path / "splits"), tokenizer, split="validation")
    with pytest.raises(UserError, match=r"may have rows that are not in it\. Give the folder, .*some"):
        open_set(str(tmp_path / "some" / "*.arrow"), tokenizer)


def test_transcripts_and_answers_make_one_conversation(tmp_path: Path, tokenizer: Any) -> None:
    start = f"\n\nHuman: Hi\n\nAssistant: Hello{HH}"
    (pair,) = texts(
        open_set(write(tmp_path / "r.jsonl", [{"prompt": start, "chosen": " a", "rejected": " b"}]), tokenizer),
        tokenizer,
    )
    assert pair[0] == f"<|bos|>user: Hi<|end|>assistant: Hello<|end|>user: {USER}<|end|>assistant: a<|end|>"
