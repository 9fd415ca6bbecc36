"""Scored responses to pairs, counted by hand; RLHFlow's mixtures and HelpSteer3 on rows of their kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.config.data import PairRules
from nemo_bt.config.load import load_settings
from nemo_bt.data.formats.responses import Preference, PromptGroup, Text
from nemo_bt.data.pairs.construct import make_pairs, margin_of
from nemo_bt.errors import UserError
from tests.support.data_rows import HH, ROWS
from tests.support.preferences import messages
from tests.support.sources import dropped, open_set, texts, write

RULES = {"mode": "all_pairs", "max_pairs_per_prompt": None, "min_margin": 0.0, "min_ratio": 0.0, "seed": 0}


def group(*scores: float, row: int = 0, responses: list[str] | None = None) -> PromptGroup:
    sides = [Text("q", text) for text in responses or [f"a{i}" for i in range(len(scores))]]
    return PromptGroup(sides, [row] * len(scores), list(scores), [None] * len(scores), [1.0] * len(scores))


def pairs_of(found: PromptGroup, **rules: Any) -> tuple[list[tuple[int, int]], dict[str, int]]:
    pairs, left_out = make_pairs(found, PairRules(**(RULES | rules)))
    return [pair.sides for pair in pairs], dict(left_out)


def test_all_pairs_leave_out_ties() -> None:
    assert pairs_of(group(3, 4, 1, 3)) == ([(1, 0), (1, 3), (1, 2), (0, 2), (3, 2)], {"tie": 1})


def test_best_vs_worst_is_one_pair() -> None:
    assert pairs_of(group(3, 4, 1, 3), mode="best_vs_worst") == ([(1, 2)], {})
    assert pairs_of(group(2, 2), mode="best_vs_worst") == ([], {"tie": 1})


def test_best_vs_random_draws_among_the_others_and_always_the_same() -> None:
    drawn = [pairs_of(group(3, 4, 1, 2, row=row), mode="best_vs_random")[0][0] for row in range(200)]
    assert drawn == [pairs_of(group(3, 4, 1, 2, row=row), mode="best_vs_random")[0][0] for row in range(200)]
    assert {chosen for chosen, _ in drawn} == {1}
    counts = np.bincount([rejected for _, rejected in drawn], minlength=4)
    assert counts[1] == 0
    assert min(counts[[0, 2, 3]]) > 40
    other = [pairs_of(group(3, 4, 1, 2, row=row), mode="best_vs_random", seed=1)[0][0] for row in range(200)]
    assert other != drawn


def test_margins_ratios_and_equal_responses_are_counted() -> None:
    assert pairs_of(group(4, 3, 1), min_margin=2) == ([(0, 2), (1, 2)], {"margin": 1})
    assert pairs_of(group(8, 5, 2), min_ratio=2) == ([(0, 2), (1, 2)], {"ratio": 1})
    assert pairs_of(group(3, 0, -1), min_ratio=2)[0] == [(0, 1), (0, 2), (1, 2)]
    assert pairs_of(group(3, 2, 1, responses=["a", "a", "b"])) == ([(0, 2), (1, 2)], {"same": 1})
    assert pairs_of(group(3)) == ([], {"single": 1})


def test_at_most_so_many_pairs_of_a_prompt() -> None:
    kept, left_out = pairs_of(group(5, 4, 3, 2), max_pairs_per_prompt=4)
    assert (len(kept), left_out) == (4, {"cap": 2})
    everything = pairs_of(group(5, 4, 3, 2))[0]
    assert [pair for pair in everything if pair in kept] == kept
    others = {tuple(pairs_of(group(5, 4, 3, 2), max_pairs_per_prompt=4, seed=seed)[0]) for seed in range(20)}
    assert len(others) > 3


def test_the_margin_is_what_the_row_says_or_the_difference_of_scores() -> None:
    assert margin_of(Preference((0, 1), 0, scores=(3, 1))) == 2
    assert margin_of(Preference((0, 1), 0, margin=0.5, scores=(3, 1))) == 0.5
    assert margin_of(Preference((0, 1), 0)) == 0


def test_a_given_pair_is_left_out_by_its_own_margin_where_it_has_no_scores() -> None:
    found = PromptGroup([Text("q", "a"), Text("q", "b")], [0, 0], given=[Preference((0, 1), 0, margin=0.5)])
    assert pairs_of(found, min_margin=1) == ([], {"margin": 1})
    assert pairs_of(found, min_margin=0.5) == ([(0, 1)], {})


def test_named_pairs_keep_what_is_theirs_when_rows_are_joined(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"prompt": "q", "chosen": good, "rejected": bad, "margin": i + 1.0, "weight": i + 2.0}
        for i, (good, bad) in enumerate([("A", "B"), ("A", "C"), ("B", "C")])
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    for rules in ({}, {"max_pairs_per_prompt": 10}):
        pairs = open_set(file, tokenizer, pairs=rules)
        assert pairs.column("margin", range(3)).tolist() == [1, 2, 3]
        assert pairs.column("weight", range(3)).tolist() == [2, 3, 4]
        assert pairs.column("row", range(3)).tolist() == [0, 1, 2]
        (group,) = pairs.groups(range(3))
        assert [pair.sides for pair in group.comparisons] == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("name", ["hh", "messages", "preference"])
def test_the_limit_of_pairs_per_prompt_holds_for_every_format(tmp_path: Path, tokenizer: Any, name: str) -> None:
    rows = {
        "hh": [{side: HH.format("q", f"{side} {i}") for side in ("chosen", "rejected")} for i in range(4)],
        "messages": [{side: messages("q", f"{side} {i}") for side in ("chosen", "rejected")} for i in range(4)],
        "preference": [
            {"prompt": "q", "response_1": f"a{i}", "response_2": f"b{i}", "preference_strength": -1} for i in range(4)
        ],
    }[name]
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, pairs={"max_pairs_per_prompt": 3})
    assert (len(pairs.epoch), dropped(pairs)) == (3, {"cap": 1})


def test_a_bad_row_ends_a_prompt_wherever_it_stands(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "response": f"r{i}", "score": i} for i in range(3)]
    last = [{"prompt": "z", "response": "r", "score": 1}]
    for before in (0, 510, 511):
        other = [{"prompt": f"p{i}", "response": f"r{i % 2}", "score": i % 2} for i in range(before)]
        file = write(tmp_path / f"{before}.jsonl", [*other, rows[0], {"prompt": "q"}, *rows[1:], *last])
        pairs = open_set(file, tokenizer, "model.data.max_bad_fraction=1")
        assert (len(pairs.epoch), dropped(pairs)) == (1, {"missing": 1, "single": before + 2})


def test_other_system_messages_are_other_prompts(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"system": f"s{i // 2}", "prompt": "q", "response": f"r{i}", "score": i} for i in range(4)]
    for suffix in ("jsonl", "parquet"):
        pairs = open_set(write(tmp_path / f"rows.{suffix}", rows), tokenizer, system_key="system")
        assert [chosen.split("<|end|>")[0] for chosen, _ in texts(pairs, tokenizer)] == [
            "<|bos|>system: s0",
            "<|bos|>system: s1",
        ]


def test_weights_of_scores_may_be_negative(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": "q", "response": f"words {i}", "good": 2, "verbosity": i} for i in range(3)]
    file = write(tmp_path / "rows.jsonl", rows)
    (pair,) = texts(open_set(file, tokenizer, format="scored", score_key={"good": 1.0, "verbosity": -2.0}), tokenizer)
    assert pair[0].endswith("words 0<|end|>")
    with pytest.raises(UserError, match=r"two columns are for rows that name the chosen response"):
        open_set(file, tokenizer, format="scored", score_key=["good", "verbosity"])


def test_rows_with_the_same_prompt_are_put_together_across_chunks(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"q{i // 3}", "response": f"answer {i % 3}", "score": i % 3} for i in range(1800)]
    pairs = open_set(write(tmp_path / "rows.parquet", rows), tokenizer, pairs={"mode": "all_pairs"})
    assert len(pairs.epoch) == 600 * 3
    assert len(np.unique(pairs.column("prompt", range(1800)))) == 600
    assert all("answer 2" in chosen or "answer 1" in chosen for chosen, _ in texts(pairs, tokenizer))
    single = open_set(
        write(tmp_path / "one.parquet", [*rows[:3], {"prompt": "z", "response": "b", "score": 1}]), tokenizer
    )
    assert dropped(single) == {"single": 1}


@pytest.mark.parametrize("mixture", [1, 2, 3, 4])
def test_rlhflows_mixtures_count_as_by_hand(tmp_path: Path, tokenizer: Any, mixture: int) -> None:
    """What the rows have (tests/support/data_rows.py), and what has to come of it.

    SHP: post 1 six comparisons above 2 to 1; post 2 one at 2 to 1 and one below; post 3 one above.
    UltraFeedback: scores 4 3 2 1 and 4 4 2 1. HelpSteer: means 4 2 2 1 and 3 3. PKU: two rows.
    """
    train = load_settings(
        "train", ["exp_manager.explicit_log_dir=x", f"+data=rlhflow_mixture{mixture}"]
    ).model.data.train
    assert [source.name for source in train][:6] == ["hh", "shp", "ultrafeedback", "helpsteer", "capybara", "orca"]
    found = {}
    for source in train:
        file = write(tmp_path / f"{source.name}.parquet", ROWS[source.name])
        keys = {
            key: getattr(source, key) for key in ("format", "prompt_key", "system_key", "score_key", "ignore_columns")
        }
        rules = vars(source.pairs)
        pairs = open_set(file, tokenizer, "model.data.max_bad_fraction=1", name=source.name, pairs=rules, **keys)
        found[source.name] = (len(pairs.epoch), dropped(pairs))
    one = mixture == 1
    assert found.pop("hh") == (2, {"identical": 1})
    assert found.pop("shp") == ((2, {"ratio": 2, "cap": 5}) if one else (6, {"ratio": 2, "cap": 1}))
    # best against one other: of 4 4 2 1 the other may be the tie; all pairs: six each, with one tie
    pairs, left_out = found.pop("ultrafeedback")
    assert (pairs + left_out.get("tie", 0) == 2) if one else ((pairs, left_out) == (11, {"tie": 1}))
    pairs, left_out = found.pop("helpsteer")
    assert ((pairs, left_out) == (1, {"tie": 1})) if one else ((pairs, left_out) == (5, {"tie": 2}))
    assert found.pop("capybara") == (1, {"tie": 1})
    assert found.pop("orca") == (1, {"tie": 1})
    assert found.pop("safe_rlhf", None) == (None if mixture < 3 else (2, {}))
    assert found == {}
    assert [source.count for source in train if source.name == "safe_rlhf"] == [[], [], [None], [150_000]][mixture - 1]


def test_the_safer_response_wins(tmp_path: Path, tokenizer: Any) -> None:
    file = write(tmp_path / "rows.parquet", ROWS["safe_rlhf"])
    pairs = open_set(file, tokenizer, score_key="safer_response_id")
    assert [chosen.split(": ")[-1] for chosen, _ in texts(pairs, tokenizer)] == ["safe 1<|end|>", "safe 2<|end|>"]


def test_helpsteer3s_rule_counts_as_by_hand(tmp_path: Path, tokenizer: Any) -> None:
    """Strengths -3 -2 -1 0 1 2 3 0: six pairs, two ties, and with strengths of two or more four."""
    (source,) = load_settings("train", ["exp_manager.explicit_log_dir=x", "+data=helpsteer3"]).model.data.train
    file = write(tmp_path / "rows.parquet", ROWS["helpsteer3"])
    pairs = open_set(file, tokenizer, format=source.format)
    assert (len(pairs.epoch), dropped(pairs)) == (6, {"tie": 2})
    assert pairs.column("margin", range(6)).tolist() == [3, 2, 1, 1, 2, 3]
    answers = [chosen.split(": ")[-1] for chosen, _ in texts(pairs, tokenizer)]
    assert answers == ["the first<|end|>"] * 3 + ["the second<|end|>"] * 3
    strong = open_set(file, tokenizer, format=source.format, pairs={"min_margin": 2.0})
    assert (len(strong.epoch), dropped(strong)) == (4, {"tie": 2, "margin": 2})


@pytest.mark.parametrize(("config", "count"), [("shp", 7), ("helpsteer2", 2)])
def test_ready_rules_compose(tmp_path: Path, tokenizer: Any, config: str, count: int) -> None:
    """At least 2 to 1, five of a post: 5 + 1 + 1. HelpSteer2 by helpfulness alone: both prompts."""
    (source,) = load_settings("train", ["exp_manager.explicit_log_dir=x", f"+data={config}"]).model.data.train
    file = write(tmp_path / "rows.parquet", ROWS["helpsteer" if config == "helpsteer2" else config])
    pairs = open_set(file, tokenizer, format=source.format, score_key=source.score_key, pairs=vars(source.pairs))
    assert len(pairs.epoch) == count
