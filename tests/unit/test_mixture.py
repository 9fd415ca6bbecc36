"""How many pairs of each source an epoch has, which, and in which order."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bt.batching.packing import group_pairs
from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.batching.stream import build_stream
from nemo_bt.config.data import SourceSettings
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.store.mixture import entries_of, make_epoch, num_wanted
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from tests.support.preferences import messages
from tests.support.sources import conversations, settings_with, write


def rows(name: str, count: int) -> list[dict[str, Any]]:
    return [
        {"chosen": messages(f"{name} {i}", "good"), "rejected": messages(f"{name} {i}", "bad")} for i in range(count)
    ]


def mixture(
    tmp_path: Path,
    tokenizer: Any,
    *sources: dict[str, Any],
    seed: int = 1,
    terminal: Terminal | None = None,
    **validation: Any,
) -> dict[str, PairSet]:
    """Data sets of sources a, b, ... of ten pairs each."""
    made = []
    for name, keys in zip("abc", sources, strict=False):
        file = write(tmp_path / f"{name}.jsonl", rows(name, 10))
        made.append(SourceSettings(**({"path": file} | keys)))
    settings = settings_with(f"trainer.seed={seed}")
    sets = {name: [SourceSettings(path=path) for path in paths] for name, paths in validation.items()}
    data = replace(settings.model.data, train=made, validation=sets)
    settings = replace(settings, model=replace(settings.model, data=data))
    return load_sets(settings, tokenizer, True, terminal or Terminal(None))


def counts(pairs: PairSet) -> list[int]:
    return np.bincount(pairs.epoch.all_pairs(), minlength=sum(map(len, pairs.sources))).tolist()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 10),
        ({"fraction": 0.25}, 2),
        ({"repeat": 3}, 30),
        ({"repeat": 1.5}, 15),
        ({"count": 4}, 4),
        ({"count": 23}, 23),
    ],
)
def test_amounts(keys: dict[str, Any], expected: int) -> None:
    assert num_wanted(SourceSettings(path="x", **keys), 10) == expected


def test_an_epoch_repeats_whole_passes_and_draws_the_rest_once() -> None:
    none = np.empty(0, dtype=np.int64)
    sources = [entries_of(0, np.arange(10), none), entries_of(10, np.array([0, 0, 0, 1]), none)]
    epoch = make_epoch(sources, [25, 4], seed=3)
    found = np.bincount(epoch.all_pairs())
    assert sorted(found[:10]) == [2] * 5 + [3] * 5
    assert found[10:].tolist() == [1] * 4
    assert epoch.num_units == 25 + 2
    assert make_epoch(sources, [25, 4], seed=3).all_pairs().tolist() == epoch.all_pairs().tolist()
    assert make_epoch(sources, [25, 4], seed=4).all_pairs().tolist() != epoch.all_pairs().tolist()


def test_a_mixture_has_its_amounts_weights_and_names(tmp_path: Path, tokenizer: Any) -> None:
    train = mixture(
        tmp_path, tokenizer, {"fraction": 0.5, "weight": 0.25}, {"repeat": 2}, {"count": 3, "name": "third"}
    )["train"]
    found = counts(train)
    assert (sorted(found[:10]), found[10:20], sorted(found[20:])) == ([0] * 5 + [1] * 5, [2] * 10, [0] * 7 + [1] * 3)
    assert train.source_names == ["a", "b", "third"]
    groups = train.groups(train.epoch.all_pairs())
    weights = {(pair.source, pair.weight) for group in groups for pair in group.comparisons}
    assert weights == {(0, 0.25), (1, 1.0), (2, 1.0)}
    stream = build_stream(groups, pad_id=0, num_sources=3)
    assert np.bincount(stream.source_P).tolist() == [5, 20, 3]
    assert stream.num_comparisons == len(train.epoch) == 28


def test_pairs_are_numbered_through_the_sources(tmp_path: Path, tokenizer: Any) -> None:
    train = mixture(tmp_path, tokenizer, {}, {})["train"]
    for number, text in ((3, "a 3"), (10, "b 0"), (19, "b 9")):
        assert text in tokenizer.decode(conversations(train, number)[0])
        assert train.where(number).endswith(f"{text[0]}.jsonl row {text[2]}")
    parts = train.parts([0, 10])
    assert parts.start_PK[0].tolist() != parts.start_PK[1].tolist()
    assert len(set(parts.prompt.tolist())) == 2


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others(tmp_path: Path, tokenizer: Any) -> None:
    def order(seed: int) -> list[int]:
        epoch = mixture(tmp_path, tokenizer, {"fraction": 0.5}, {}, seed=seed)["train"].epoch
        return [pair for step in range(6) for pair in pairs_of_step(seed, step, 5, epoch)]

    assert order(1) == order(1) != order(2)
    assert len(set(order(1)[:15])) == 15


def test_a_step_of_responses_to_one_prompt_holds_it_once(tmp_path: Path, tokenizer: Any) -> None:
    ranked = [{"prompt": f"q {i}", "completions": ["a", "b c", "d"], "scores": [3.0, 2.0, 1.0]} for i in range(8)]
    file = write(tmp_path / "ranked.jsonl", ranked)
    settings = settings_with()
    data = replace(settings.model.data, train=[SourceSettings(path=file, pairs={"mode": "all_pairs"})])
    settings = replace(settings, model=replace(settings.model, data=data))
    train = load_sets(settings, tokenizer, False, Terminal(None))["train"]
    numbers = pairs_of_step(1, 0, 12, train.epoch)
    groups, sizes = group_pairs(train.parts(numbers), 1000, hidden_size=64)
    assert sorted(map(len, groups)) == [3, 3, 3, 3]
    for group, tokens in zip(groups, sizes.tokens.tolist(), strict=True):
        (group,) = train.groups(numbers[group])
        assert (group.num_tokens, len(group.continuations), len(group.comparisons)) == (tokens, 3, 3)


def test_a_source_that_yields_nothing_is_named(tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path / "b.jsonl", [{"chosen": messages("q", "same"), "rejected": messages("q", "same")}])
    file = write(tmp_path / "tied.jsonl", [{"prompt": "q", "completions": ["a", "b"], "scores": [1.0, 1.0]}])
    with pytest.raises(
        UserError, match=r"train tied: 0 of 1 pairs; dropped 1 with tied scores\. The source yields nothing"
    ):
        mixture(tmp_path, tokenizer, {}, {"path": file, "name": "tied"})


def test_a_share_that_is_nothing_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(
        UserError, match=r"train b: fraction=0\.01, repeat=None of 10 pairs are none\. Raise it, set count"
    ):
        mixture(tmp_path, tokenizer, {}, {"fraction": 0.01})


def test_overlap_below_the_limit_is_told(tmp_path: Path, tokenizer: Any, capsys: Any) -> None:
    file = write(tmp_path / "v.jsonl", [*rows("new", 199), *rows("a", 1)])
    mixture(tmp_path, tokenizer, {}, {}, terminal=Terminal(sys.stdout), v=[file])
    assert "v: 1 pairs have an answer that is also in the training data\n" in capsys.readouterr().out


def test_validation_pairs_that_are_in_training_stop_the_run(tmp_path: Path, tokenizer: Any) -> None:
    swapped = [{"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows("a", 2)]
    new = rows("new", 6)
    file = write(tmp_path / "val.jsonl", [*new, *swapped])
    with pytest.raises(
        UserError, match=r"validation v: 2 of 8 pairs have an answer that is also in the training"
    ) as caught:
        mixture(tmp_path, tokenizer, {}, {}, v=[file])
    assert f"The first:\n  {file} row 6\n" in str(caught.value)
    same_prompts = [json.loads(json.dumps(row).replace("good", "fine").replace("bad", "poor")) for row in rows("a", 3)]
    mixture(tmp_path, tokenizer, {}, {}, v=[write(tmp_path / "prompts.jsonl", same_prompts)])
