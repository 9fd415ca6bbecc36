"""Results of rows that have their rewards."""

from typing import Any

from nemo_bt.config.data import SourceSettings
from nemo_bt.evaluation.kind import kind_of
from nemo_bt.evaluation.measure import measure, scored_rows
from nemo_bt.scoring.rows import reader_of


def results_of(rows: list[dict[str, Any]], kind: str = "auto") -> dict[str, Any]:
    found, _ = scored_rows(rows, reader_of("rows", rows, SourceSettings(path="rows.jsonl"), True, "reward"))
    return measure(found, kind_of(found) if kind == "auto" else kind)
