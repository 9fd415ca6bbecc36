"""What is written so far is taken only where it belongs."""

import json
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from nemo_bt.data.read.drop_report import DropReport
from nemo_bt.errors import UserError
from nemo_bt.scoring.parts import Parts


def test_parts_of_another_output_are_not_taken(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl")
    parts.folder.mkdir(parents=True, exist_ok=True)
    identity = {"model": "a", "column": ["x"]}
    assert parts.begin(identity) == 0
    rows = [{"text": "\ud83d café", "reward": 0.5, "on": date(2026, 1, 2)}, {"text": "b", "reward": None}]
    parts.write_lines(0, rows[:1], DropReport(num_rows=1, num_kept=1))
    assert parts.begin(identity) == 1
    with pytest.raises(UserError, match=r"out.jsonl.unfinished has parts of another output: model changed"):
        parts.begin({"model": "b", "column": ["x"]})
    parts.write_lines(1, rows[1:], DropReport(num_rows=1, dropped=Counter(long=1)))
    drop_report = parts.finish(keeps_identity=True)
    assert (drop_report.num_rows, drop_report.num_kept, drop_report.dropped) == (2, 1, {"long": 1})
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [rows[0] | {"on": "2026-01-02"}, rows[1]]
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.jsonl.of.json"}
    assert parts.is_done(identity)
    with pytest.raises(UserError, match=r"out.jsonl is there already, and made from others: column changed"):
        parts.is_done({"model": "a", "column": ["y"]})


def test_parts_without_a_note_are_not_taken_and_bytes_have_no_json(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.jsonl")
    parts.folder.mkdir(parents=True, exist_ok=True)
    parts.begin({"model": "a"})
    parts.write_lines(0, [{"text": "a"}], DropReport())
    (parts.folder / "of.json").write_text("")
    assert parts.begin({"model": "b"}) == 0
    with pytest.raises(UserError, match="a value of type bytes has no form in JSON"):
        parts.write_lines(0, [{"text": b"a"}], DropReport())
