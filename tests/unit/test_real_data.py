"""Real preferences: what is wrong with them, found by the guards and by a few lines of plain Python."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.sources import dropped, open_set

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}, where the real data lies")
def test_hh_has_five_prompts_that_differ_and_four_empty_responses(tmp_path: Path, tokenizer: Any) -> None:
    pairs = open_set(str(SHARED / "hh_harmless_base_test.jsonl.gz"), tokenizer)
    drop_report = pairs.accounts[0]
    assert (drop_report.num_rows, drop_report.num_kept) == (2312, 2303)
    assert dropped(pairs) == {"prompts": 5, "empty": 4}
    with gzip.open(SHARED / "hh_harmless_base_test.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines]
    cut = [[row[side].rsplit("\n\nAssistant:", 1) for side in ("chosen", "rejected")] for row in rows]
    differ = [i for i, (chosen, rejected) in enumerate(cut) if chosen[0] != rejected[0]]
    empty = [i for i, both in enumerate(cut) if not all(response.strip() for _, response in both)]
    assert (differ, empty) == ([1254, 1688, 1950, 1952, 2036], [86, 516, 925, 1103])
    kept = pairs.column("row", np.arange(2303))
    assert set(range(2312)) - set(kept.tolist()) == {*differ, *empty}
