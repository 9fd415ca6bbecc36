"""Programs that judge reward models: their scores of an export are those of nemo-bt evaluate."""

import json
import os
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nemo_bt.evaluation.rewardbench import SECTIONS, SUBSETS
from nemo_bt.evaluation.rm_bench import DOMAINS
from tests.interop.environment import run
from tests.interop.ours import TOLERANCE, evaluated, scored_by
from tests.support.preferences import random_text

RM_BENCH = Path(os.environ.get("RM_BENCH", ""))
FILES = {
    "rb": "allenai/reward-bench/data/filtered-00000-of-00001.parquet",
    "rb2": "allenai/reward-bench-2/data/test-00000-of-00001.parquet",
    "rm_bench": "total_dataset.json",
}
"""Where rewardbench's loader of data sets finds them on this disk, by the names that they have on the hub."""
WHAT = "{} gives evaluate's scores on rows of its form; what names CUDA stays on the CPU"
IN_FP32 = ("--model=exported", "--torch_dtype=float32", "--batch_size=4")


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Made-up rows, in the columns that the published ones have."""
    draw = random.Random(kind)

    def text() -> str:
        return random_text(draw, draw.randint(1, 20))

    if kind == "rb":
        sides = ("prompt", "chosen", "rejected")
        names = [(subset, n) for subset in sorted(SUBSETS) for n in range(3)]
        rows = [{"subset": subset, "id": i, **{side: text() for side in sides}} for i, (subset, _) in enumerate(names)]
    elif kind == "rm_bench":
        domains = [f"{domain}/{n}" for domain in DOMAINS for n in range(4)]
        rows = [
            {"id": name, "prompt": text(), "domain": name.split("/")[0]}
            | {side: [text() for _ in range(3)] for side in ("chosen", "rejected")}
            for name in domains
        ]
    else:
        counts = [(name, f"{n}", 1, 3) for name in ("Factuality", "Math", "Safety") for n in range(4)]
        counts += [("Ties", f"{of}:{n}", right, 4) for n in range(6) for of, right in (("ref", 1), ("tied", 3))]
        rows = [
            {"id": name, "prompt": text(), "chosen": [text() for _ in range(right)]}
            | {"rejected": [text() for _ in range(wrong)], "subset": subset, "num_correct": right}
            | {"num_incorrect": wrong, "total_completions": right + wrong}
            for subset, name, right, wrong in counts
        ]
    return rows


@pytest.fixture(scope="module")
def folder(exported: Path) -> Path:
    """A folder with the export and the rows, in which the programs run."""
    for name, path in FILES.items():
        file = exported.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("json"):
            file.write_text(json.dumps(rows_of(name)))
        else:
            pq.write_table(pa.Table.from_pylist(rows_of(name)), file)
    return exported.parent


@pytest.fixture(scope="module")
def ours(folder: Path) -> dict[str, Any]:
    return evaluated(folder / "exported", {name: folder / path for name, path in FILES.items()}, folder / "ours")


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def close(expected: Any) -> Any:
    return pytest.approx(expected, abs=TOLERANCE)


def test_rewardbenchs_command(folder: Path, ours: dict[str, Any], record_property: Any) -> None:
    record_property("program", f"RewardBench | rewardbench:rewardbench | {WHAT.format('its command')}")
    argv = [*IN_FP32, "--dataset=allenai/reward-bench", "--not_quantized", "--output_dir=theirs/"]
    printed = run("rewardbench", "without_cuda", "rewardbench.rewardbench", *argv, folder=folder)
    scored = [json.loads(line) for line in (folder / "theirs" / "exported_outputs.jsonl").read_text().splitlines()]
    assert [row[f"scores_{side}"] for row in scored for side in ("chosen", "rejected")] == close(
        scored_by(folder / "ours", "rb")
    )
    found = json.loads((folder / "theirs" / "exported.json").read_text())
    assert (found["accuracy"], found["num_prompts"]) == (ours["rb"]["overall"]["accuracy"], len(scored))
    assert found["extra_results"] == {name: of["accuracy"] for name, of in ours["rb"]["by_subset"].items()}
    sections = {name: float(re.search(rf"'{name}': (?:np\.float64\()?([\d.]+)", printed)[1]) for name in SECTIONS}
    assert sections == pytest.approx(ours["rb"]["sections"])


def test_rewardbench_2s_script(folder: Path, ours: dict[str, Any], record_property: Any) -> None:
    record_property("program", f"RewardBench 2 | rewardbench:rewardbench | {WHAT.format('run_v2, with ties,')}")
    printed = run("rewardbench", "without_cuda", "scripts.run_v2", *IN_FP32, "--do_not_save", folder=folder)
    found = json.loads((folder / "results" / "eval-set-scores" / "exported.json").read_text())
    assert [reward for row in found["scores"] for (reward,) in row] == close(scored_by(folder / "ours", "rb2"))
    mine = json.loads((folder / "ours" / "rb2" / "eval-set-scores" / "exported.json").read_text())
    assert mine.keys() == found.keys()
    for name in ("id", "subset", "num_correct", "text", "chat_template", "model_type"):
        assert mine[name] == found[name], name
    assert mine["results"] == pytest.approx(found["results"])
    assert [len(row) for row in mine["scores"]] == [len(row) for row in found["scores"]]
    for own, theirs in zip(mine["scores"], found["scores"], strict=True):
        assert [reward for (reward,) in own] == close([reward for (reward,) in theirs])
    scores = dict(re.findall(r"^(\w+): (?:Overall score |\S+ \()([-\d.e]+)", printed, re.MULTILINE))
    assert {name: float(score) for name, score in scores.items()} == pytest.approx(ours["rb2"]["sections"])


def test_rm_benchs_script(folder: Path, ours: dict[str, Any], record_property: Any) -> None:
    there = (RM_BENCH / "scripts" / "run_rm.py").is_file()
    what = WHAT.format("run_rm, on PyPI's rewardbench,")
    record_property("program", f"RM-Bench | {commit_of(RM_BENCH) if there else 'none'} | {what}")
    if not there:
        pytest.skip("RM_BENCH names no checkout of THU-KEG/RM-Bench")
    module = f"scripts.run_rm={RM_BENCH / 'scripts'}"
    printed = run(
        "rewardbench", "without_cuda", module, *IN_FP32, "--not_quantized", f"--datapath={FILES['rm_bench']}",
        folder=folder,
    )  # fmt: skip
    (file,) = (folder / "results" / "Seq_Classifier" / "exported").glob("*.json")
    scored = json.loads(file.read_text())
    assert [reward for row in scored for side in ("chosen", "rejected") for reward in row[f"score_{side}"]] == close(
        scored_by(folder / "ours", "rm_bench")
    )
    found = dict(re.findall(r"'(\w+)': (?:np\.float64\()?([\d.]+)", printed.rpartition("is:")[2]))
    domains = ours["rm_bench"]["domains"]
    expected = {name: domains[name]["average"] for name in DOMAINS} | {"total_avg_acc": ours["rm_bench"]["score"]}
    expected |= {f"{level}_acc": domains["average"][level] for level in ("hard", "normal", "easy")}
    assert {name: float(score) for name, score in found.items()} == pytest.approx(expected)
