"""Whatever a row holds, it becomes a pair or is counted: pairs in = pairs out + what was dropped."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.length import length_limit
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.read.chunk import Chunk
from nemo_bt.data.read.files import find_files
from nemo_bt.data.read.rows import read_chunks
from nemo_bt.data.store.encode import Encoded, encode
from nemo_bt.data.store.spec import EncodingSpec
from nemo_bt.data.tokenize.chat_template import Renderer, load_renderer
from tests.support.data_rows import ROWS
from tests.support.format_rows import ONE_PAIR
from tests.support.sources import settings_with

TEXT = st.text(max_size=20) | st.sampled_from(
    ["", " ", "\ud800", "<|bos|>", "<|end|>", "\n\nAssistant:", "a" * 3000, "\0"]
)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
EXAMPLES = {name.split()[0]: rows for name, rows in reversed(ONE_PAIR.items())} | {
    "shp": ROWS["shp"],
    "scored": [{"prompt": "p", "response": f"r{i}", "score": i} for i in range(3)],
}


def spoilt(row: Any, draw: Any) -> Any:
    """A row with one of its values, at any depth, exchanged for anything or taken out."""
    if isinstance(row, dict) and row and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(row)))
        if draw(st.integers(0, 5)) == 0:
            return {name: value for name, value in row.items() if name != key}
        return row | {key: spoilt(row[key], draw)}
    if isinstance(row, list) and row and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(row) - 1))
        return [*row[:place], spoilt(row[place], draw), *row[place + 1 :]]
    return draw(ANYTHING)


@st.composite
def chunks(draw: Any, name: str) -> list[bytes]:
    """Lines of a file: good rows, rows with something wrong in them, bytes."""
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from(EXAMPLES[name]))
        kind = draw(st.integers(0, 4))
        if kind:
            row = spoilt(row, draw)
        line = json.dumps(row).encode()
        if kind == 1:
            line = line[: draw(st.integers(0, len(line)))] + draw(st.binary(max_size=4))
        if kind == 2 and isinstance(row, dict):
            line = line.replace(b"{", b'{"chosen": 1, "prompt": null, ', 1)  # keys that come twice
        lines.append(line.replace(b"\n", b" "))
    return lines


@pytest.fixture(scope="module")
def renderer(tokenizer: Any) -> Renderer:
    return load_renderer(tokenizer, settings_with().model.data)


@cache
def source_with(**keys: Any) -> SourceSettings:
    return SourceSettings(path="x", **keys)


def encoding_spec(renderer: Renderer, name: str, source: SourceSettings) -> EncodingSpec:
    return EncodingSpec(renderer, source, name, length_limit(512, None), "truncate_prompt_left")


def check(found: Encoded, renderer: Renderer) -> None:
    drop_report = found.drop_report
    assert (
        drop_report.num_kept == len(found.columns["row"]) == drop_report.num_pairs - sum(drop_report.dropped.values())
    )
    sides = found.sides
    assert (sides["tokens"] >= 1).all()
    assert (found.tokens[sides["start"] + sides["tokens"] - 1] == renderer.tokenizer.eos_token_id).all()
    num_sides = found.columns["num_sides"]
    assert (np.repeat(found.columns["prefix_tokens"], num_sides) + sides["tokens"] <= 512).all()
    assert found.columns["first_side"].tolist() == (num_sides.cumsum() - num_sides).tolist()
    for first, count in zip(found.columns["first_side"].tolist(), num_sides.tolist(), strict=True):
        assert len({*sides["hash"][first : first + count].tolist()}) == count
    assert (found.columns["weight"] >= 0).all()


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.is_preference])
@settings(max_examples=40)
@given(data=st.data())
def test_every_row_is_a_pair_or_is_counted(renderer: Renderer, name: str, data: Any) -> None:
    lines = data.draw(chunks(name))
    found = encode(Chunk("f", 0, len(lines), lines, 0), 0, encoding_spec(renderer, name, source_with()))
    check(found, renderer)
    assert found.drop_report.num_rows == len(lines)
    if not FORMATS[name].joins:
        assert found.drop_report.num_pairs >= len(lines)  # more where a row has several responses on a side


@settings(max_examples=60)
@given(
    scores=st.lists(st.integers(0, 3), max_size=5),
    answers=st.lists(st.sampled_from(["a", "b", "c", "", "long " * 200]), min_size=5, max_size=5),
    cap=st.none() | st.integers(1, 3),
)
def test_candidates_of_ranked_rows_add_up(
    renderer: Renderer, scores: list[int], answers: list[str], cap: int | None
) -> None:
    row = {"prompt": "q", "completions": answers[: len(scores)], "scores": scores}
    rules = replace(source_with().pairs, mode="all_pairs", max_pairs_per_prompt=cap)
    spec = encoding_spec(renderer, "ranked", replace(source_with(), pairs=rules))
    found = encode(Chunk("f", 0, 1, [json.dumps(row).encode()], 0), 0, spec)
    check(found, renderer)
    size = len(scores)
    assert found.drop_report.num_pairs == max(1, size * (size - 1) // 2)
    assert cap is None or found.drop_report.num_kept <= cap


@settings(max_examples=100)
@given(rows=st.lists(ANYTHING, max_size=5), indent=st.none() | st.integers(0, 2))
def test_a_json_array_is_read_as_json_does(tmp_path_factory: Any, rows: list[Any], indent: int | None) -> None:
    file = Path(tmp_path_factory.mktemp("json")) / "f.json"
    file.write_text(json.dumps(rows, indent=indent))
    (found,) = find_files(SourceSettings(path=str(file)), "x")
    read = [row for chunk in read_chunks(found, None, None) for row in chunk.rows()]
    expected = json.loads(file.read_text())
    assert [isinstance(row, dict) for row in read] == [isinstance(row, dict) for row in expected]
    assert [repr(row) for row in read if isinstance(row, dict)] == [repr(r) for r in expected if isinstance(r, dict)]
