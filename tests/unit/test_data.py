"""Guards and limits: what is dropped, counted and shown, and what every kind of broken file says."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nemo_bt.data.read.chunk import Chunk
from nemo_bt.data.read.drop_report import DropReport, RowError
from nemo_bt.errors import UserError
from tests.support.preferences import GOOD, messages
from tests.support.sources import conversations, dropped, open_set, settings_with, texts, write

ALL = ("model.data.max_bad_fraction=1", "model.data.max_drop_fraction=1")


def sides(chosen: Any, rejected: Any = None) -> dict[str, Any]:
    return {"chosen": chosen, "rejected": rejected or messages("some tea", "I bring milk.")}


def test_sizes_and_tokens_agree(dataset: Path, tokenizer: Any) -> None:
    pairs = open_set(str(dataset / "random.parquet"), tokenizer)
    parts = pairs.parts(range(100))
    assert (parts.prefix_tokens + parts.tokens_PK.sum(1)).tolist() == [
        pairs.groups([i])[0].num_tokens for i in range(100)
    ]
    assert parts.prefix_tokens.sum() + parts.tokens_PK.sum() == len(pairs.sources[0].tokens)


def test_margins_and_sides_stay_with_their_row(dataset: Path, tokenizer: Any) -> None:
    pairs = open_set(str(dataset / "random.parquet"), tokenizer)
    for i, row in enumerate(pq.read_table(dataset / "random.parquet").to_pylist()):
        assert pairs.groups([i])[0].comparisons[0].margin == pytest.approx(row["margin"])
        for side, ids in zip(("chosen", "rejected"), conversations(pairs, i), strict=True):
            assert tokenizer.decode(ids).endswith(row[side][1]["content"] + "<|end|>")
        assert pairs.where(i) == f"{dataset / 'random.parquet'} row {i}"


BAD_ROWS = {
    "empty": [sides(messages("some tea", "  ")), sides(messages("some tea", "a"), messages("some tea", ""))],
    "prompts": [sides(messages("some milk", "I bring milk."))],
    "identical": [sides(messages("some tea", "I bring milk."))],
    "roles": [
        sides(messages("a", "b")[:1]),
        sides([]),
        sides([{"content": "a"}, {"role": "assistant", "content": "b"}]),
        sides([*messages("a", "b"), {"role": "system", "content": "x"}, *messages("c", "d")]),
        sides([{"role": "assistant", "content": "a"}] * 2),
    ],
    "missing": [
        {"chosen": GOOD["chosen"]},
        sides(None) | {"chosen": None},
        sides(messages("a", None)),
        {},
    ],
    "type": [
        sides(5),
        sides("a text"),
        sides([None, *messages("a", "b")]),
        sides([{"role": "assistant", "content": 5}]),
        GOOD | {"margin": -1.0},
        GOOD | {"margin": float("nan")},
        GOOD | {"margin": 10**400},
        GOOD | {"margin": True},
        GOOD | {"margin": "large"},
        GOOD | {"weight": -0.5},
    ],
    "unicode": [sides(messages("some tea", "half \ud800"))],
    "unreadable": [b'{"chosen": "a', b"\xff\xfe{}", b"[1, 2]", b"[" * 100_000, b"NaN"],
    "bos": [sides(messages("some tea", "I <|bos|> tea."))],
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_bad_rows_are_counted_and_shown_by_file_and_row(tmp_path: Path, tokenizer: Any, reason: str) -> None:
    file = write(tmp_path / "rows.jsonl", [GOOD, *BAD_ROWS[reason], GOOD])
    num_bad = len(BAD_ROWS[reason])
    pairs = open_set(file, tokenizer, *ALL)
    assert dropped(pairs) == {reason: num_bad}
    assert pairs.column("row", [0, 1]).tolist() == [0, num_bad + 1]
    drop_report = pairs.accounts[0]
    assert (drop_report.num_rows, drop_report.num_pairs, drop_report.num_kept) == (num_bad + 2, num_bad + 2, 2)
    with pytest.raises(UserError) as caught:
        open_set(file, tokenizer)
    assert f"train: 2 of {num_bad + 2} pairs; dropped {num_bad} " in str(caught.value)
    assert "Expected at most model.data.max_bad_fraction=0.01 of the pairs, found 0." in str(caught.value)
    for row in range(1, 1 + min(3, num_bad)):
        assert f"\n  {file} row {row}" in str(caught.value)
    assert str(caught.value).count("\n  ") == min(3, num_bad)


def test_ends_that_differ_and_a_pad_at_the_end_are_bad(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", [GOOD, sides(messages("some tea", "I bring <|end|>"))])
    bare = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "bare.jinja").write_text(bare)
    template = f"model.data.chat_template={tmp_path / 'bare.jinja'}"
    assert dropped(open_set(write(tmp_path / "same.jsonl", [GOOD]), tokenizer, template)) == {}
    assert dropped(open_set(file, tokenizer, template, *ALL)) == {"terminal": 1}
    both = sides(messages("a", "b <|pad|>"), messages("a", "c <|pad|>"))
    assert dropped(open_set(write(tmp_path / "pad.jsonl", [GOOD, both]), tokenizer, template, *ALL)) == {"pad": 1}


def test_responses_that_are_the_same_ids_are_identical(tmp_path: Path, tokenizer: Any) -> None:
    trim = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    (tmp_path / "trim.jinja").write_text(trim)
    file = write(tmp_path / "rows.jsonl", [GOOD, sides(messages("a", "b "), messages("a", "b"))])
    pairs = open_set(file, tokenizer, f"model.data.chat_template={tmp_path / 'trim.jinja'}", *ALL)
    assert dropped(pairs) == {"identical": 1}


def test_a_limit_of_nothing_bad_stops_at_the_first(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", [GOOD] * 2000 + BAD_ROWS["empty"][:1])
    assert dropped(open_set(file, tokenizer)) == {"empty": 1}
    with pytest.raises(UserError, match=r"rows\.jsonl row 2000: chosen \(with an empty response\)"):
        open_set(file, tokenizer, "model.data.max_bad_fraction=0")


LONG = [GOOD] * 3 + [sides(messages("tea " * 100, "yes"), messages("tea " * 100, "no"))]


def test_pairs_too_long_are_dropped_within_a_limit_of_their_own(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", LONG)
    short = "model.encoder_seq_length=100"
    with pytest.raises(UserError, match=r"max_drop_fraction=0\.05 of the pairs, found 0\.25.*\n  .*row 3: \d+ tokens"):
        open_set(file, tokenizer, short)
    assert dropped(open_set(file, tokenizer, short, "model.data.max_drop_fraction=0.25")) == {"long": 1}


def test_the_budget_of_a_stream_needs_no_new_cache(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", LONG)
    whole = open_set(file, tokenizer)
    smaller = open_set(file, tokenizer, "model.data.tokens_per_micro_batch=100", *ALL)
    assert (len(whole.epoch), len(smaller.epoch), dropped(smaller)) == (4, 3, {"budget": 1})
    assert whole.sources[0].folder == smaller.sources[0].folder


def test_length_policy_error_names_the_row(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.jsonl", LONG)
    with pytest.raises(UserError, match=r"row 3: \d+ tokens, expected at most model\.encoder_seq_length=100\."):
        open_set(file, tokenizer, "model.encoder_seq_length=100", "model.data.length_policy=error")


def test_prompts_are_cut_from_the_left_and_responses_stay_whole(tmp_path: Path, tokenizer: Any) -> None:
    prompt = " ".join(f"word{i}" for i in range(60))
    rows = [
        GOOD,
        sides(messages(prompt, "a rather long answer"), messages(prompt, "short")),
        sides(messages("q", "tea " * 100), messages("q", "short")),
    ]
    cut = ("model.encoder_seq_length=100", "model.data.length_policy=truncate_prompt_left", *ALL)
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, *cut)
    assert (dropped(pairs), pairs.accounts[0].num_truncated, len(pairs.epoch)) == ({"long": 1}, 1, 2)
    whole = [
        tokenizer(f"<|bos|>user: {prompt}<|end|>assistant: {a}<|end|>", add_special_tokens=False)["input_ids"]
        for a in ("a rather long answer", "short")
    ]
    surplus = max(map(len, whole)) - 100
    assert surplus > 50
    for ids, expected in zip(conversations(pairs, 1), whole, strict=True):
        assert ids.tolist() == [tokenizer.bos_token_id, *expected[1 + surplus :]]
    assert max(map(len, conversations(pairs, 1))) == 100
    assert "cut 1 prompts from the left" in pairs.accounts[0].describe("x")


def test_a_pair_that_is_cut_takes_nothing_from_those_that_fit(tmp_path: Path, tokenizer: Any) -> None:
    prompt = "tea " * 10
    rows = [sides(messages(prompt, f"yes {i}"), messages(prompt, "no " * (1 if i % 2 else 8))) for i in range(4)]
    cut = ("model.encoder_seq_length=40", "model.data.length_policy=truncate_prompt_left", *ALL)
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, *cut)
    assert (len(pairs.epoch), pairs.accounts[0].num_truncated) == (4, 2)
    prompts = {int(pairs.column("row", [i])[0]): texts(pairs, tokenizer)[i][0] for i in range(4)}
    assert all(text.startswith("<|bos|>user: tea") == bool(row % 2) for row, text in prompts.items())
    assert max(len(ids) for i in range(4) for ids in conversations(pairs, i)) == 40


def test_a_template_that_renders_no_prompt_alone_cuts_nothing(tmp_path: Path, tokenizer: Any) -> None:
    own = tokenizer.chat_template.replace("{{ bos_token }}", "{{ bos_token }}{{ messages[0]['content'][0] }}")
    (tmp_path / "first.jinja").write_text(own)
    long = [{"role": "assistant", "content": "tea " * 60}]
    file = write(tmp_path / "rows.jsonl", [GOOD, {"chosen": long, "rejected": [long[0] | {"content": "a " * 99}]}])
    cut = ("model.encoder_seq_length=60", "model.data.length_policy=truncate_prompt_left", *ALL)
    template = f"model.data.chat_template={tmp_path / 'first.jinja'}"
    assert dropped(open_set(file, tokenizer, template, *cut))["long"] == 1


def test_texts_without_a_known_prompt_are_never_cut(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"chosen": "tea", "rejected": "milk"}, {"chosen": "tea " * 200, "rejected": "tea " * 200 + "milk"}]
    cut = ("model.encoder_seq_length=100", "model.data.length_policy=truncate_prompt_left", *ALL)
    assert dropped(open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, *cut)) == {"long": 1}


def test_plain_prompts_are_cut_too(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "tea " * 100, "chosen": " yes", "rejected": " no"}]
    cut = (
        "model.encoder_seq_length=50",
        "model.data.length_policy=truncate_prompt_left",
        "model.data.chat_template=none",
    )
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, *cut)
    found = texts(pairs, tokenizer)[0]
    assert found[0].startswith("<|bos|>")
    assert found[0].endswith("tea  yes<|end|>")
    assert max(map(len, conversations(pairs, 0))) == 50


def test_margins_that_are_nowhere_are_asked_for(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "f.jsonl", [GOOD])
    with pytest.raises(
        UserError, match=r"model\.loss\.scale=true: no pair of f has a margin\. Set model\.data\.margin_key"
    ):
        open_set(file, tokenizer, "model.loss.scale=true")


def test_accounts_add_up_in_order_and_survive_the_disk() -> None:
    first, second = DropReport(num_rows=2, num_kept=1), DropReport(num_rows=3, num_kept=1)
    first.drop("empty", "f row 1", "chosen")
    for row in (2, 4):
        second.drop("empty", f"f row {row}")
    first.add(second)
    assert (first.num_rows, first.num_pairs, first.dropped["empty"]) == (5, 5, 3)
    assert first.examples["empty"] == ["f row 1: chosen", "f row 2", "f row 4"]
    assert DropReport.from_json(json.loads(json.dumps(first.to_json()))) == first
    with pytest.raises(UserError, match=r"x: 0 of 1 pairs; dropped 1 with tied scores\. The source yields nothing"):
        DropReport(num_rows=1, dropped=type(first.dropped)(tie=1)).check("x", settings_with().model.data)


def test_a_chunk_knows_rows_from_mistakes() -> None:
    found = Chunk("f", 0, 2, [b'{"a": 1}\n', b"7\n"], 0).rows()
    assert found[0] == {"a": 1}
    assert isinstance(found[1], RowError)
