"""Validation pairs read again: each with its own texts, whatever it was made from."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.model import Settings
from nemo_bt.data.formats.responses import Chat, Text
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.chat_template import load_renderer
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.reporting.conversations import as_texts, conversations_of, prompt_only, response_only
from nemo_bt.training.steps.plan import build_streams, plan_step
from tests.support import sources as written


def opened(tokenizer: Any, *sources: Any, **keys: Any) -> tuple[PairSet, Settings, Any]:
    """A validation set, its settings, and what renders it."""
    settings = written.settings_with("model.encoder_seq_length=300")
    given = [SourceSettings(path=path, **keys) if isinstance(path, str) else path for path in sources]
    settings = replace(
        settings, model=replace(settings.model, data=replace(settings.model.data, validation={"v": given}))
    )
    own = copy.deepcopy(tokenizer)
    pairs = load_sets(settings, own, True, Terminal(None), with_train=False)["v"]
    return pairs, settings, load_renderer(own, settings.model.data)


def texts_of(pairs: PairSet, settings: Settings, renderer: Any) -> dict[int, Any]:
    return conversations_of(pairs, settings.model.data.validation["v"], settings, renderer)


def test_pairs_of_ranked_rows_have_their_own_texts(tmp_path: Path, tokenizer: Any) -> None:
    """Chosen and rejected come from rules; what is read again renders to the ids that are stored."""
    rows = [
        {
            "prompt": f"Question {n}?",
            "completions": [f"one {n}", f"two {n}", f"three {n}"],
            "scores": [n % 3, 5, 1 + n % 2],
        }
        for n in range(12)
    ]
    rows[4]["completions"] = ["", "", ""]  # dropped: it has to be skipped here too
    file = written.write(tmp_path / "ranked.jsonl", rows)
    pairs, settings, renderer = opened(tokenizer, file, count=9, pairs={"mode": "all_pairs"})
    found = texts_of(pairs, settings, renderer)
    assert set(found) == set(pairs.epoch.all_pairs().tolist())
    assert len(found) == 9
    for number, sides in found.items():
        expected = written.conversations(pairs, number)
        for side, ids in zip(sides, expected, strict=True):
            assert renderer.ids([renderer.texts([side])], [True])[0][0].tolist() == ids.tolist()


def test_of_token_ids_nobody_knows_where_a_response_starts(dataset: Path, tmp_path: Path, tokenizer: Any) -> None:
    shipped = Path(__file__).parents[2] / "conf" / "data_class" / "token_pairs.py"
    custom = {"path": str(shipped), "name": "TokenPairs", "options": {}}
    pairs, settings, renderer = opened(tokenizer, str(dataset / "random.parquet"), custom_cls=custom)
    assert pairs.sources[0].format == "ids"
    found = texts_of(pairs, settings, renderer)
    row = pq.read_table(dataset / "random.parquet").slice(0, 1).to_pylist()[0]
    assert all(message["content"] in found[0][0].response for message in row["chosen"])
    assert prompt_only(found[0][0]) is response_only(found[0][0]) is None
    assert as_texts(found[0][0]) == [("response", found[0][0].response)]


def test_parts_of_conversations() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    assert prompt_only(Chat(messages)) == Chat([*messages[:2], {"role": "assistant", "content": ""}])
    assert response_only(Chat(messages)) == Chat([{"role": "user", "content": ""}, messages[2]])
    assert as_texts(Chat(messages)) == [("system", "s"), ("user", "u"), ("response", "a")]
    text = Text("a question", " an answer")
    assert (prompt_only(text), response_only(text)) == (Text("a question", ""), Text("", " an answer"))
    assert as_texts(text) == [("prompt", "a question"), ("response", " an answer")]


def test_data_that_changes_meanwhile_is_named(dataset: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = pq.read_table(dataset / "random.parquet").to_pylist()
    file = written.write(tmp_path / "pairs.jsonl", rows)
    pairs, settings, renderer = opened(tokenizer, file)
    written.write(tmp_path / "pairs.jsonl", rows[1:])
    with pytest.raises(UserError, match=r"found \d+ pairs, expected the \d+ of a moment ago\. Its files changed"):
        texts_of(pairs, settings, renderer)


def test_exchanged_streams_have_the_same_pairs_the_other_way_round(dataset: Path, tokenizer: Any) -> None:
    pairs, settings, _ = opened(tokenizer, str(dataset / "random.parquet"))
    numbers = pairs.epoch.all_pairs()[:20]
    plan = plan_step(settings, pairs.parts(numbers), hidden_size=64)
    both = [build_streams(plan, pairs, numbers, 0, 0, swapped) for swapped in (False, True)]
    for stream, swapped in zip(*both, strict=True):
        sides = [_continuations(one) for one in (stream, swapped)]
        assert swapped.number_P.tolist() == stream.number_P.tolist()
        for (a, b), (c, d) in zip(stream.sides_PK.tolist(), swapped.sides_PK.tolist(), strict=True):
            assert np.array_equal(sides[0][a], sides[1][c])
            assert np.array_equal(sides[0][b], sides[1][d])
            assert (a < b) != (c < d)


def _continuations(stream: Any) -> list[Any]:
    ids = stream.tokens_1T[0].numpy()
    return [ids[start:end] for _, _, start, end, _ in stream.segments_C5.tolist()]
