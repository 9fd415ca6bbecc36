"""Which benchmark a file is of: by what only that has."""

import json
import random
from pathlib import Path

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun
from nemo_bt.errors import UserError
from nemo_bt.scoring.reading import open_files, read_parts
from tests.support.results import results_of


def test_a_file_of_rm_bench_alone_is_no_rewardbench_2(tmp_path: Path) -> None:
    """The files of one domain each have no column that says which; their names do."""
    draw = random.Random(5)
    parts = {}
    for name in ("chat_filtered", "safety-refuse_filtered", "mine"):
        three = {"subset": "x", "chosen": ["c"] * 3, "rejected": ["r"] * 3}
        rows = [three | {"id": i, "prompt": f"p{i}"} for i in range(4)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        given = [f"evaluate.input={tmp_path}/{name}.json", f"evaluate.output={tmp_path}/out"]
        files = open_files(load_settings_of(EvaluateRun, "evaluate", given), chat=True)
        (part,) = read_parts(files, 10, 0)
        rewards = [float(draw.randrange(9)) for sides in part.conversations for _ in sides]
        parts[name] = [row | more for row, more in zip(part.rows, part.values(rewards), strict=True)]
    assert [part[0].get("domain") for part in parts.values()] == ["chat", "safety", None]
    both = results_of(parts["chat_filtered"] + parts["safety-refuse_filtered"])
    assert (both["kind"], list(both["domains"])) == ("rm_bench", ["chat", "safety", "average"])
    alone = results_of(parts["mine"])
    assert (alone["kind"], list(alone["domains"])) == ("rm_bench", ["rows", "average"])
    assert alone["score"] == alone["domains"]["rows"]["average"]


def test_rows_that_could_be_of_two_benchmarks_are_refused() -> None:
    answers = {"prompt": "p", "chosen": ["c"], "rejected": ["r"] * 3}
    answers |= {"reward_chosen": [1.0], "reward_rejected": [0.0] * 3}
    with pytest.raises(UserError, match=r"rows have 1 right and 3 wrong answers\. .*Set evaluate\.kind to"):
        results_of([answers | {"subset": "own"}])
    assert results_of([answers | {"num_correct": 1}])["kind"] == "rewardbench2"
    assert results_of([answers | {"subset": "Math"}])["kind"] == "rewardbench2"
    assert results_of([answers], "pairs")["score"] == 1.0
