"""What data becomes for each loss: lists, ties, soft labels, scores, attributes; and what cannot feed a loss."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.batching.stream import build_stream
from nemo_bt.config.data import SourceSettings
from nemo_bt.data.inspect import lengths_of, show, stats
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from tests.support.data_rows import ROWS
from tests.support.preferences import messages
from tests.support.signals import ranked
from tests.support.sources import dropped, open_set, settings_with, write

LISTS = "model.loss.kind=plackett_luce"
ANSWERS = "model.loss.kind=regression"
HELPSTEER = "[helpfulness,verbosity]"


def compared(pairs: PairSet, tokenizer: Any) -> list[list[tuple[str, float]]]:
    """The answers of each comparison with their scores, as text."""
    found = []
    for number in range(len(pairs.epoch)):
        (group,) = pairs.groups([number])
        (one,) = group.comparisons
        texts = [tokenizer.decode([*group.prefix, *group.continuations[side]]) for side in one.sides]
        found.append(
            [
                (text.split("assistant: ")[-1].removesuffix("<|end|>"), s)
                for text, s in zip(texts, one.scores, strict=True)
            ]
        )
    return found


def test_a_list_has_all_answers_of_a_prompt_the_best_first(tmp_path: Path, tokenizer: Any) -> None:
    rows = [ranked(0, [1, 3, 2]), ranked(1, [2, 2]), ranked(2, [5]), ranked(3, [1, 1, 4, 0], ["a", "b", "a", "c"])]
    lists = open_set(write(tmp_path / "lists.jsonl", rows), tokenizer, LISTS, "model.data.max_bad_fraction=0")
    answers = [[("answer 1", 3), ("answer 2", 2), ("answer 0", 1)], [("a", 1), ("b", 1), ("c", 0)]]
    assert compared(lists, tokenizer) == answers
    assert dropped(lists) == {"tie": 1, "single": 1, "repeated": 1}
    told = lists.accounts[0].describe("train")
    assert told.startswith("train: 2 of 4 lists; dropped 1 with no second response")
    assert told.endswith("; dropped 1 answers that say the same as another")
    parts = lists.parts([0, 1])
    assert parts.start_PK.shape == (2, 3)
    assert [(row >= 0).sum() for row in parts.start_PK] == [3, 3]


def test_rows_that_follow_each_other_are_one_list(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "response": f"answer {i}", "score": score} for i, score in enumerate((1, 3, 2))]
    lists = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, LISTS)
    assert compared(lists, tokenizer) == [[("answer 1", 3), ("answer 2", 2), ("answer 0", 1)]]


def test_pairs_that_rows_name_are_lists_of_two(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "chosen": "good", "rejected": "bad"}]
    (answers,) = compared(open_set(write(tmp_path / "p.jsonl", rows), tokenizer, LISTS), tokenizer)
    assert [text for text, _ in answers] == ["good", "bad"]
    assert all(math.isnan(score) for _, score in answers)


ARENA = [
    {"conversation_a": messages("q", "left"), "conversation_b": messages("q", "right"), "winner": winner}
    for winner in ("model_a", "model_b", "tie", "tie (bothbad)")
]


@pytest.mark.parametrize("kind", ["davidson", "rao_kupper"])
def test_ties_are_kept_where_the_loss_has_them(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    file = write(tmp_path / "arena.jsonl", ARENA)
    pairs = open_set(file, tokenizer, f"model.loss.kind={kind}")
    assert [pairs.groups([i])[0].comparisons[0].preference for i in range(4)] == [1, 1, 0.5, 0.5]
    assert dropped(pairs) == {}
    assert dropped(open_set(file, tokenizer)) == {"tie": 2}
    kept = open_set(file, tokenizer, pairs={"keep_ties": True})
    assert kept.column("preference", range(4)).tolist() == [1, 1, 0.5, 0.5]


def test_a_column_of_probabilities_is_a_soft_label(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "chosen": f"good {p}", "rejected": "bad", "p": p} for p in (1, 0.75, 0)]
    pairs = open_set(write(tmp_path / "soft.jsonl", rows), tokenizer, preference_key="p")
    assert pairs.column("preference", range(3)).tolist() == [1, 0.75, 0]
    for wrong in (1.5, -0.1, "x", None):
        bad = write(tmp_path / "bad.jsonl", [rows[0] | {"p": wrong}])
        with pytest.raises(UserError, match=r"bad\.jsonl row 0: ('p' is|no 'p')"):
            open_set(bad, tokenizer, preference_key="p")


def test_attributes_come_with_each_answer(tmp_path: Path, tokenizer: Any) -> None:
    head = f"model.reward_head.attributes={HELPSTEER}"
    answers = open_set(write(tmp_path / "h.jsonl", ROWS["helpsteer"]), tokenizer, ANSWERS, head)
    (first, *_) = (answers.groups([i])[0].comparisons[0] for i in range(len(answers.epoch)))
    rows = [row for row in ROWS["helpsteer"] if row["prompt"] == ROWS["helpsteer"][0]["prompt"]]
    expected = sorted(((row["helpfulness"], row["verbosity"]) for row in rows), key=lambda both: -sum(both))
    assert sorted(first.attributes) == sorted(expected)
    assert list(first.scores) == [pytest.approx(sum(both) / 2) for both in expected]
    weighted = open_set(
        write(tmp_path / "h.jsonl", ROWS["helpsteer"]), tokenizer, ANSWERS, head, "model.reward_head.weights=[0.5,-2]"
    )
    (one,) = weighted.groups([0])[0].comparisons
    assert one.scores == tuple(sorted((0.5 * a - 2 * b for a, b in expected), reverse=True))

    rows = [{"prompt": "q", "completions": [
        {"response": "a", "annotations": {"helpfulness": {"Rating": "4"}}},
        {"response": "b", "annotations": {"helpfulness": {"Rating": "2"}, "verbosity": {"Rating": "1"}}},
        {"response": "c", "annotations": {"helpfulness": {"Rating": "N/A"}, "verbosity": {"Rating": math.nan}}},
    ]}]  # fmt: skip
    keys = {name: f"annotations.{name}.Rating" for name in ("helpfulness", "verbosity")}
    nested = open_set(write(tmp_path / "u.jsonl", rows), tokenizer, ANSWERS, head, attribute_keys=keys)
    (one,) = nested.groups([0])[0].comparisons
    assert np.array_equal(one.scores, [1.5, math.nan, math.nan], equal_nan=True)
    assert np.array_equal(one.attributes, [[2.0, 1.0], [4.0, math.nan], [math.nan] * 2], equal_nan=True)
    with pytest.raises(UserError, match=r"attribute_keys: humour: expected names of model\.reward_head\.attributes"):
        open_set(str(tmp_path / "u.jsonl"), tokenizer, ANSWERS, head, attribute_keys=keys | {"humour": "x"})
    lists = open_set(
        str(tmp_path / "u.jsonl"),
        tokenizer,
        LISTS,
        "model.loss.regression_coefficient=1",
        "model.reward_head.attributes=[helpfulness]",
        attribute_keys={"helpfulness": keys["helpfulness"]},
    )
    assert (lists.groups([0])[0].comparisons[0].scores, dropped(lists)) == ((4.0, 2.0), {"unscored": 1})


def attributes_of_all(pairs: PairSet) -> list[list[tuple[float, ...]]]:
    return [[*pairs.groups([i])[0].comparisons[0].attributes] for i in range(len(pairs.epoch))]


def test_attributes_of_named_pairs_stand_in_two_columns_or_lists_of_two(tmp_path: Path, tokenizer: Any) -> None:
    """UltraFeedback's binarized rows, and PKU-SafeRLHF's, whose verdict may turn the two round."""
    head = f"model.reward_head.attributes={HELPSTEER}"
    binarized = [
        {"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": 8.5, "score_rejected": "N/A",
         "verbosity": [3, 1]},
        {"prompt": "q", "chosen": "good", "rejected": "worse", "score_chosen": 7, "score_rejected": None},
    ]  # fmt: skip
    keys: Any = {"helpfulness": ["score_chosen", "score_rejected"]}
    for kind in (ANSWERS, "model.loss.regression_coefficient=1"):
        file = write(tmp_path / "binarized.jsonl", binarized)
        first, second = attributes_of_all(open_set(file, tokenizer, kind, head, attribute_keys=keys))
        assert np.array_equal(first, [[8.5, 3], [math.nan, 1]], equal_nan=True)
        assert np.array_equal(second, [[7, math.nan], [math.nan] * 2], equal_nan=True)  # of its own row

    safe = [
        {"prompt": f"q{n}", "response_0": "a", "response_1": "b", "better_response_id": n,
         "response_0_severity_level": 3, "response_1_severity_level": 1}
        for n in (0, 1)
    ]  # fmt: skip
    keys = {"severity": ["response_0_severity_level", "response_1_severity_level"]}
    pairs = open_set(write(tmp_path / "s.jsonl", safe), tokenizer, ANSWERS, "model.reward_head.attributes=[severity]",
                     attribute_keys=keys)  # fmt: skip
    assert attributes_of_all(pairs) == [[(3,), (1,)], [(1,), (3,)]]
    assert [answers[0][0] for answers in compared(pairs, tokenizer)] == ["a", "b"]


def test_attributes_of_several_chosen_answers_are_lists_and_fields_are_paths(tmp_path: Path, tokenizer: Any) -> None:
    several = [{"prompt": "q", "chosen": ["a", "b"], "rejected": ["c"], "of": {"chosen": [4, 3]}, "other": 1}]
    head = "model.reward_head.attributes=[help]"
    pairs = open_set(write(tmp_path / "rows.jsonl", several), tokenizer, ANSWERS, head,
                     attribute_keys={"help": ["of.chosen", "other"]})  # fmt: skip
    assert attributes_of_all(pairs) == [[(4,), (1,)], [(3,), (1,)]]
    first_is_best = [{"instruction": "q", "input": "", "output": ["a", "b", "c"], "help": [4, 2, None]}]
    ordered = open_set(write(tmp_path / "ordered.jsonl", first_is_best), tokenizer, ANSWERS, head)
    assert np.array_equal(attributes_of_all(ordered), [[[4], [2]], [[4], [math.nan]]], equal_nan=True)


def test_one_source_of_a_mixture_may_lack_an_attribute(tmp_path: Path, tokenizer: Any) -> None:
    rows = {"a": [ranked(0, [1, 0], helpfulness=[3, 4])], "b": [ranked(1, [1, 0], verbosity=[1, 2])]}
    files = [write(tmp_path / f"{name}.jsonl", own) for name, own in rows.items()]
    settings = settings_with(ANSWERS, f"model.reward_head.attributes={HELPSTEER}")
    data = replace(settings.model.data, train=[SourceSettings(path=[file]) for file in files])
    settings = replace(settings, model=replace(settings.model, data=data))
    mixed = load_sets(settings, copy.deepcopy(tokenizer), False, Terminal(None))["train"]
    values = [mixed.groups([i])[0].comparisons[0].attributes for i in range(2)]
    assert np.array_equal(values[0], [[3, math.nan], [4, math.nan]], equal_nan=True)
    assert np.array_equal(values[1], [[math.nan, 1], [math.nan, 2]], equal_nan=True)


def test_lists_of_one_and_of_two_in_one_stream_see_their_own_answers_alone(tmp_path: Path, tokenizer: Any) -> None:
    answers = open_set(write(tmp_path / "r.jsonl", [ranked(0, [1]), ranked(1, [1, 0])]), tokenizer, ANSWERS)
    stream = build_stream(answers.groups([0, 1]), pad_id=0)
    assert (stream.sides_PK.tolist(), stream.is_ragged, stream.is_plain) == ([[0, -1], [1, 2]], True, False)
    pairs = build_stream(answers.groups([1]), pad_id=0)
    assert (pairs.is_ragged, pairs.is_plain) == (False, True)


def test_a_probability_of_rows_with_scores_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="'p' is read for pairs that rows name, and these have scores"):
        open_set(write(tmp_path / "r.jsonl", [ranked(0, [1, 2], p=[0.1, 0.2])]), tokenizer, preference_key="p")


def test_missing_attributes_and_ties_are_counted(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    rows = [ranked(0, [1.0, 0.0], helpfulness=[3, None]), ranked(1, [1.0, 0.0], helpfulness=[3, 2])]
    head = "model.reward_head.attributes=[helpfulness]"
    told: list[str] = []
    terminal = Terminal(None)
    terminal.line = told.append  # type: ignore[method-assign]
    from nemo_bt.data.store.signal import check_signal

    settings = settings_with(ANSWERS, head)
    (part,) = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, ANSWERS, head).sources
    check_signal("train", [part], settings, terminal)
    assert told == ["train: 1 of 4 answers of rows have no helpfulness; the loss leaves it out there"]
    told.clear()
    check_signal("train", [part], settings_with("model.loss.kind=davidson"), terminal)
    assert told == ["train: rows has no ties, for which model.loss.kind=davidson is made"]


def test_lists_are_shown_and_measured(tmp_path: Path, tokenizer: Any) -> None:
    lists = open_set(write(tmp_path / "rows.jsonl", [ranked(0, [1, 3, 2]), ranked(1, [1, 0])]), tokenizer, LISTS)
    lengths = lengths_of(lists)
    assert list(lengths) == ["shared prefix", "a response", "pair in a stream"]
    assert len(lengths["a response"]) == 5
    shown: list[str] = []
    terminal = Terminal(None)
    terminal.line = shown.append  # type: ignore[method-assign]
    show({"train": lists}, tokenizer, 1, terminal)
    assert any(line.startswith("response 1 of 3, score 3, ") for line in shown)
    stats({"train": lists}, settings_with(LISTS), None, terminal)
    assert any("shared prefixes save" in line for line in shown)
