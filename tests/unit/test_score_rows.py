"""Which conversations a row has, and what its rewards become."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun, ScoreRun
from nemo_bt.data.formats.responses import Chat, Text
from nemo_bt.errors import UserError
from nemo_bt.scoring.reading import Part, open_files, read_parts
from nemo_bt.scoring.rows import RowReader, row_reader
from tests.support.preferences import messages

ASKED = messages("Tea?", "Yes.")


def reader_of(rows: list[Any], chat: bool = True, **keys: Any) -> RowReader:
    return row_reader("file", rows, SourceSettings(path="file.jsonl", **keys), chat, "reward")


@pytest.mark.parametrize(
    ("row", "sides", "values"),
    [
        ({"text": "Whole."}, [Text("", "Whole.")], {"reward": 1.0}),
        ({"text": "\n\nHuman: Tea?\n\nAssistant: Yes."}, [Chat(ASKED)], {"reward": 1.0}),
        ({"messages": ASKED, "id": 3}, [Chat(ASKED)], {"reward": 1.0}),
        ({"prompt": "Tea?", "response": "Yes."}, [Chat(ASKED)], {"reward": 1.0}),
        ({"prompt": ASKED[:1], "response": "Yes."}, [Chat(ASKED)], {"reward": 1.0}),
        (
            {"prompt": "Tea?", "completions": ["Yes.", "No."]},
            [Chat(ASKED), Chat(messages("Tea?", "No."))],
            {"reward": [1.0, 2.0]},
        ),
        (
            {"prompt": "Tea?", "chosen": ["Yes."], "rejected": ["No.", "Hm.", "Me?"], "num_correct": 1},
            [Chat(messages("Tea?", answer)) for answer in ("Yes.", "No.", "Hm.", "Me?")],
            {"reward_chosen": [1.0], "reward_rejected": [2.0, 3.0, 4.0]},
        ),
        (
            {"chosen": ASKED, "rejected": messages("Tea?", "No.")},
            [Chat(ASKED), Chat(messages("Tea?", "No."))],
            {"reward_chosen": 1.0, "reward_rejected": 2.0},
        ),
        (
            {"prompt": "Tea?", "output_A": "No.", "output_B": "Yes.", "label": 0, "type": "pairwise_feedback"},
            [Chat(ASKED), Chat(messages("Tea?", "No."))],
            {"reward_chosen": 1.0, "reward_rejected": 2.0},
        ),
    ],
)
def test_rows_of_every_kind(row: dict[str, Any], sides: list[Any], values: dict[str, Any]) -> None:
    reader = reader_of([row])
    found = reader.sides(row)
    assert [side for column in found for side in column] == sides
    coming = iter([1.0, 2.0, 3.0, 4.0])
    assert reader.values([[next(coming) for _ in column] for column in found]) == values
    assert reader.values([]) == dict.fromkeys(values)


def test_columns_can_have_other_names() -> None:
    row = {"question": "Tea?", "output": "Yes."}
    assert reader_of([row], prompt_key="question", response_key="output").sides(row) == [[Chat(ASKED)]]


def test_a_column_of_that_name_is_not_written_over() -> None:
    with pytest.raises(UserError, match=r"file: has a column 'reward' already. Set score.column"):
        reader_of([{"text": "a", "reward": 1}])


def test_columns_that_cannot_be_scored_are_listed() -> None:
    with pytest.raises(UserError, match=r"file: no format fits, found columns id \(int\)"):
        reader_of([{"id": 1}])


def parts_of(files: list[Path], rows_per_part: int, first: int = 0) -> list[Part]:
    given = ",".join(map(str, files))
    run = load_settings_of(ScoreRun, "score", [f"score.input=[{given}]", "score.output=out.jsonl"])
    return list(read_parts(open_files(run, chat=True), rows_per_part, first))


def write_rows(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return file


def test_rows_that_cannot_be_used_keep_their_place(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": None}, {"prompt": "a", "response": "c"}]
    (part,) = parts_of([write_rows(tmp_path / "rows.jsonl", rows)], 10)
    assert part.rows == rows
    assert [len(sides) for sides in part.conversations] == [1, 0, 1]
    assert part.values([0.5, 0.7]) == [{"reward": 0.5}, {"reward": None}, {"reward": 0.7}]
    assert part.drop_report.dropped == {"missing": 1}
    assert part.drop_report.examples == {"missing": [f"{tmp_path}/rows.jsonl row 1: no 'response'"]}
    assert part.where[1] == f"{tmp_path}/rows.jsonl row 2"


def test_parts_are_the_same_whichever_is_the_first(tmp_path: Path) -> None:
    """Two files of 700 rows each are read in chunks of 512 and 188."""
    files = [
        write_rows(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(700)]) for name in ("a", "b")
    ]
    parts = parts_of(files, 600)
    assert [len(part.rows) for part in parts] == [700, 700]
    assert [part.rows[0]["text"] for part in parts_of(files, 100, first=2)] == ["b 0", "b 512"]
    assert parts[1].where[0] == f"{tmp_path}/b.jsonl row 0"
    assert parts[1].num_bytes == sum(file.stat().st_size for file in files)


def test_a_row_that_is_no_object_stops_it(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}, "{broken"])
    with pytest.raises(UserError, match=r"rows.jsonl row 1: expected an object, found what cannot be written back"):
        parts_of([file], 10)


def test_files_that_need_other_columns_are_scored_apart(tmp_path: Path) -> None:
    files = [
        write_rows(tmp_path / "a.jsonl", [{"text": "a"}]),
        write_rows(tmp_path / "b.jsonl", [{"chosen": "a", "rejected": "b"}]),
    ]
    with pytest.raises(UserError, match=r"b.jsonl: its rewards would be reward_chosen and reward_rejected of numbers"):
        parts_of(files, 10)


def test_a_bad_first_row_does_not_hide_what_a_file_is() -> None:
    bad = {"prompt": "a", "chosen": None, "rejected": "b"}
    rows = [bad, {"prompt": "a", "chosen": "c", "rejected": "b"}]
    assert reader_of(rows).columns == ["reward_chosen", "reward_rejected"]
    with pytest.raises(UserError, match="none of the first 1 rows can be used"):
        reader_of([{"prompt": "a", "chosen": "c", "rejected": "b", "margin": -1}])


def test_pairs_with_a_response_beside_them_are_pairs() -> None:
    row = {"prompt": "a", "chosen": "c", "rejected": "b", "response": "d"}
    assert reader_of([row]).kind == "pair"


def test_a_later_row_with_such_a_column_is_not_written_over(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}] * 600 + [{"text": "z", "reward": 99}])
    with pytest.raises(UserError, match="row 600: has a column 'reward' already"):
        parts_of([file], 1000)


def test_shards_may_have_one_name_or_be_empty(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    files = [write_rows(tmp_path / "a" / "rows.jsonl", [{"text": "a"}]), write_rows(tmp_path / "empty.jsonl", [])]
    (part,) = parts_of([*files, write_rows(tmp_path / "b" / "rows.jsonl", [{"text": "b"}])], 10)
    assert [row["text"] for row in part.rows] == ["a", "b"]
    with pytest.raises(UserError, match=r"empty.jsonl has no rows"):
        parts_of(files[1:], 10)


def test_a_command_says_which_rows_it_can_use(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])
    given = [f"evaluate.input={file}", f"evaluate.output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"rows.jsonl: expected rows of pair or completions or response, found text"):
        open_files(load_settings_of(EvaluateRun, "evaluate", given), chat=True)
