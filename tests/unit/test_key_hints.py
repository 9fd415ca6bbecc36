"""A file that no format fits: the message has the keys that read it, and typed as they stand they do."""

import re
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.errors import UserError
from tests.support.sources import open_set, write


def records(*answers: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"prompt": f"Is {i} even?", "answers": list(answers)} for i in range(12)]


ROWS: dict[str, list[dict[str, Any]]] = {
    "upper case": [{"Prompt": f"Q {i}?", "Chosen": f"good {i}", "Rejected": f"bad {i}"} for i in range(12)],
    "winner and loser": [{"prompt": f"Q {i}?", "winner": f"good {i}", "loser": f"bad {i}"} for i in range(12)],
    "positive": [{"query": f"Q {i}?", "positive": f"good {i}", "negative": f"bad {i}"} for i in range(12)],
    "a word more": [{"chosen_response": f"good {i}", "rejected_response": f"bad {i}"} for i in range(12)],
    "ranked records": records({"answer": "No.", "rank": 2}, {"answer": "Yes.", "rank": 1}),
    "scored records": records({"text": "No.", "points": 0.5}, {"text": "Yes.", "points": 0.75}),
    "a response a row": [
        {"question": f"Q {i // 2}?", "answer": f"an answer {i}", "helpfulness": i % 2} for i in range(12)
    ],
}


@pytest.mark.parametrize("rows", ROWS)
def test_the_keys_of_the_message_read_the_file(rows: str, tokenizer: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", ROWS[rows])
    with pytest.raises(UserError, match=r"no format fits") as error:
        open_set(file, tokenizer)
    typed = re.findall(r"\. Set ((?:model\.data\.\w+=\w+ ?)+), or model\.data\.format", str(error.value))
    assert len(typed) == 1, str(error.value)
    keys = dict(key.removeprefix("model.data.").split("=") for key in typed[0].split())
    assert len(open_set(file, tokenizer, **keys).epoch) >= 6


def test_where_nothing_is_to_be_guessed_it_says_which_keys_there_are(tokenizer: Any, tmp_path: Path) -> None:
    for rows in ([{"a": "b"}], [{"input": "Q?", "output_1": "a", "output_2": "b", "preference": 1}]):
        with pytest.raises(UserError, match=r"Set model\.data\.chosen_key and the like, or"):
            open_set(write(tmp_path / "rows.jsonl", rows * 12), tokenizer)
