"""Rewards of rows that exist: transformers', at every layout, in order, and whatever happens on the way."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.score import EvaluateRun, ScoreRun
from nemo_bt.errors import UserError
from nemo_bt.evaluation.command import check_shape
from nemo_bt.launching.signals import STOPPED_STATUS
from nemo_bt.scoring.checks import check_score
from nemo_bt.scoring.command import open_rows
from tests.support.hf_models import save
from tests.support.layouts import CP2, EP2, PP2, SP, TP2
from tests.support.reference import alone
from tests.support.runs import convert, free_port, nemo_bt, torchrun

TOLERANCE = 1e-5
LAYOUTS = {"TP2 SP": [*TP2, *SP], "PP2": PP2, "CP2": CP2, "DP2": []}
SMALL_STREAMS = ["model.data.tokens_per_micro_batch=300", "score.rows_per_part=30"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("score") / "model", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def rows(dataset: Path) -> list[dict[str, Any]]:
    """Pairs as message lists."""
    return pq.read_table(dataset / "random.parquet").to_pylist()


@pytest.fixture(scope="module")
def expected(model: Path, rows: list[dict[str, Any]], tokenizer: Any) -> list[float]:
    """Chosen and rejected of each row, one at a time, by transformers."""
    return alone(model, [row[side] for row in rows for side in ("chosen", "rejected")], tokenizer)


def arguments(model: Path, data: Path, output: Path) -> list[str]:
    return [
        f"model.restore_from_path={model}",
        f"score.input={data}",
        f"score.output={output}",
        "trainer.accelerator=cpu",
    ]


def of_report(model: Path, data: Path) -> list[str]:
    """Settings of a run whose validation set is a mixture: some pairs twice, some left out."""
    sources = f"[{{path: {data}, repeat: 2, name: a}}, {{path: {data}, count: 7, name: b}}]"
    return [
        f"model.restore_from_path={model}",
        "exp_manager.explicit_log_dir=unused",
        "model.data.train=unused",
        f"+model.data.validation.mixture={sources}",
        "model.data.tokens_per_micro_batch=400",
        "model.encoder_seq_length=300",
        "trainer.accelerator=cpu",
    ]


@pytest.fixture(scope="module")
def scored(dataset: Path, model: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Folder of outputs of two ranks, by layout."""
    folder = tmp_path_factory.mktemp("scored")
    mixtral = save("mixtral", folder / "mixtral", tokenizer=tokenizer)
    result = convert("hf_to_nemo", "--input", model, "--output", folder / "model.nemo")
    assert result.returncode == 0, result.stderr
    data = dataset / "random.parquet"
    runs = [
        {"port": free_port(), "overrides": [*arguments(start, data, folder / f"{name}.jsonl"), *extra]}
        for name, start, extra in (
            *((name, folder / "model.nemo", [*layout, *SMALL_STREAMS]) for name, layout in LAYOUTS.items()),
            ("mixtral EP2", mixtral, [*EP2, *SMALL_STREAMS]),
        )
    ]
    for name, layout in LAYOUTS.items():
        argv = [*of_report(folder / "model.nemo", data), *layout]
        runs.append({"port": free_port(), "overrides": argv, "judged": str(folder / f"judged {name}.json")})
    for run in runs:
        run["overrides"] += ["trainer.devices=2"]
    (folder / "runs.json").write_text(json.dumps(runs))
    result = torchrun(2, "tests.support.score_ranks", folder / "runs.json")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_writes_the_same_rows_with_transformers_rewards(
    scored: Path, rows: list[dict[str, Any]], expected: list[float], name: str
) -> None:
    found = [json.loads(line) for line in (scored / f"{name}.jsonl").read_text().splitlines()]
    rewards = [row.pop(f"reward_{side}") for row in found for side in ("chosen", "rejected")]
    assert found == rows
    assert rewards == pytest.approx(expected, abs=TOLERANCE)
    assert not (scored / f"{name}.jsonl.unfinished").exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_judges_a_mixture_as_transformers_does(scored: Path, expected: list[float], name: str) -> None:
    found = json.loads((scored / f"judged {name}.json").read_text())["mixture"]
    num_rows = len(expected) // 2
    assert {source: found["sources"].count(source) for source in "ab"} == {"a": 2 * num_rows, "b": 7}
    row_E = [int(where.rsplit(" row ", 1)[1]) for where in found["where"]]
    of_row = [expected[2 * row : 2 * row + 2] for row in row_E]
    assert torch.tensor(found["given"]).sub(torch.tensor(of_row)).abs().max() < TOLERANCE
    assert torch.tensor(found["swapped"]).sub(torch.tensor(of_row)).abs().max() < TOLERANCE
    response_E2 = torch.tensor(found["response"])
    assert (response_E2 - torch.tensor(of_row)).abs().max() > 100 * TOLERANCE
    first = {row: entry for entry, row in reversed(list(enumerate(row_E)))}
    assert torch.equal(response_E2, response_E2[[first[row] for row in row_E]])  # a row's are the same each time


def test_experts_may_be_on_other_ranks(scored: Path, rows: list[dict[str, Any]], tokenizer: Any) -> None:
    found = [json.loads(line) for line in (scored / "mixtral EP2.jsonl").read_text().splitlines()]
    expected = alone(scored / "mixtral", [row["chosen"] for row in rows], tokenizer)
    assert [row["reward_chosen"] for row in found] == pytest.approx(expected, abs=TOLERANCE)


def test_a_command_that_is_ended_goes_on_where_it_was(
    dataset: Path, model: Path, tmp_path: Path, rows: list[dict[str, Any]], expected: list[float]
) -> None:
    """Of three parts the first is there when its two ranks are asked to end."""
    pq.write_table(pa.Table.from_pylist(rows * 12), tmp_path / "rows.parquet")  # in chunks of 512 rows
    argv = [*arguments(model, tmp_path / "rows.parquet", tmp_path / "out.parquet"), "score.rows_per_part=512"]
    argv += ["trainer.devices=2"]
    command = [sys.executable, "-m", "nemo_bt", "score", *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    first = tmp_path / "out.parquet.unfinished" / "000000.parquet"
    deadline_s = time.monotonic() + 120
    while not first.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED_STATUS, printed
    assert re.search(r"stopped by SIGUSR1 after part \d; the same command goes on", printed)
    assert not (tmp_path / "out.parquet").exists()
    result = nemo_bt("score", *argv[:-1])  # on one rank
    assert result.returncode == 0, result.stderr
    assert "parts are there already" in result.stdout
    assert "1,200 rows, 2,400 rewards" in result.stdout
    whole = pq.read_table(tmp_path / "out.parquet")
    assert whole.drop(["reward_chosen", "reward_rejected"]).to_pylist() == rows * 12
    assert whole["reward_chosen"].to_pylist() == pytest.approx(expected[0::2] * 12, abs=TOLERANCE)


def test_several_sets_are_evaluated_by_two_ranks_in_turn(
    tmp_path: Path, dataset: Path, model: Path, expected: list[float]
) -> None:
    pairs = zip(expected[0::2], expected[1::2], strict=True)
    accuracy = sum(chosen > rejected for chosen, rejected in pairs) / (len(expected) / 2)
    named = [f"evaluate.input.{name}={dataset / file}.parquet" for name, file in (("a", "random"), ("b", "random_val"))]
    given = [f"model.restore_from_path={model}", *named, f"evaluate.output={tmp_path / 'out'}"]
    result = nemo_bt("evaluate", *given, "trainer.devices=2", "trainer.accelerator=cpu")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found) == ["a", "b"]
    assert found["a"]["score"] == pytest.approx(accuracy)
    assert (found["a"]["rows"], found["b"]["rows"]) == (100, 37)
    assert json.loads((tmp_path / "out" / "b" / "results.json").read_text()) == found["b"]
    assert "results of all: " in result.stdout


def test_rows_of_another_shape_are_told_before_any_is_scored(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "a", "chosen": ["b"], "rejected": ["c", "d"]}) + "\n")
    given = [f"model.restore_from_path={model}", f"evaluate.input={file}", f"evaluate.output={tmp_path / 'out'}"]
    run = load_settings_of(EvaluateRun, "evaluate", given)
    run, pretrained, _ = check_score(run)
    with pytest.raises(UserError, match=r"rows have 1 right and 2 wrong answers"):
        check_shape(run, pretrained)
    check_shape(load_settings_of(EvaluateRun, "evaluate", [*given, "evaluate.kind=pairs"]), pretrained)


def test_tables_of_other_columns_do_not_become_one(tmp_path: Path, model: Path) -> None:
    for name, more in (("a", {}), ("b", {"id": 1})):
        pq.write_table(pa.Table.from_pylist([{"text": "a"} | more]), tmp_path / f"{name}.parquet")
    given = [f"model.restore_from_path={model}", f"score.input={tmp_path}/*.parquet"]
    run = load_settings_of(ScoreRun, "score", [*given, f"score.output={tmp_path / 'out.parquet'}"])
    with pytest.raises(UserError, match=r"b.parquet: its columns are not those of .*a.parquet"):
        open_rows(*check_score(run))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "model.restore_from_path: expected a reward model"),
        (["score.output=out.csv"], "score.output: expected a name that ends in .jsonl or .parquet, got out.csv"),
        (["score.output=there.jsonl"], "score.output: there.jsonl is there already"),
        (["score.rows_per_part=0"], "score.rows_per_part: expected 1 or more"),
        (["score.column=''"], "score.column: expected a name"),
        ([*TP2, "trainer.devices=3"], "world size 3 .* is not a multiple of 2"),
        ([*PP2, "model.virtual_pipeline_model_parallel_size=2", "trainer.devices=2"], "scoring has no bubble"),
        (
            ["model.fp8=e4m3", "trainer.precision=bf16-mixed"],
            r"model\.fp8 belongs to training; nothing depends on it here",
        ),
    ],
)
def test_a_mistake_in_the_settings_is_named(
    model: Path, tmp_path: Path, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("")
    where = [f"model.restore_from_path={model}"] if overrides else []
    given = ["score.input=rows.jsonl", "score.output=out.jsonl", *where, *overrides]
    with pytest.raises(UserError, match=message):
        check_score(load_settings_of(ScoreRun, "score", given))
