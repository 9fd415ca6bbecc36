"""Token ids over the vocabularies that people have are those of transformers, for every conversation."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bt.data.formats.responses import Chat
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer
from tests.support.dialogs import dialogs
from tests.support.preferences import messages
from tests.support.real_catalog import BY_NAME
from tests.support.real_models import NOT_THERE, models_folder
from tests.support.sources import dropped, open_set, write
from tests.support.token_truth import DAY, check_ids, renderer_of, true_ids


def there(model: str) -> Any:
    is_there = (models_folder() / model).is_dir()
    return pytest.param(model, marks=pytest.mark.skipif(not is_there, reason=NOT_THERE))


every_model = pytest.mark.parametrize("model", [there(model) for model in BY_NAME])


@cache
def renderer(model: str) -> Renderer:
    return renderer_of(str(models_folder() / model), BY_NAME[model].unused)


@every_model
@settings(max_examples=60)
@given(data=st.data())
def test_ids_are_transformers(model: str, data: Any) -> None:
    check_ids(renderer(model), data.draw(dialogs(system=BY_NAME[model].system)), BY_NAME[model].adds_bos)


@every_model
def test_a_small_file_is_kept_whole(model: str, tmp_path: Path) -> None:
    tokenizer = renderer(model).tokenizer
    rows = [
        {
            side: messages(f"{n} lumps of sugar?", answer)
            for side, answer in (("chosen", f"Yes: {n}"), ("rejected", "No"))
        }
        for n in range(4)
    ]
    pairs = open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, f"model.data.chat_template_date={DAY}")
    assert (dropped(pairs), sum(map(len, pairs.sources))) == ({}, 4)
    (group,) = pairs.groups([0])
    kept = [[*group.prefix.tolist(), *group.continuations[side].tolist()] for side in group.comparisons[0].sides]
    assert kept == [true_ids(tokenizer, rows[0][side], BY_NAME[model].adds_bos) for side in ("chosen", "rejected")]


@every_model
def test_a_system_message_is_taken_or_refused_as_the_template_does(model: str) -> None:
    (text,) = renderer(model).texts([Chat([{"role": "system", "content": "Be kind."}, *messages("a", "b")])])
    assert isinstance(text, RowError) != BY_NAME[model].system
