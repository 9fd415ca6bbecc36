"""Rewards of rows that exist: transformers', at every layout, in order, and whatever happens on the way."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from nemo_bt.config import load_settings_of
from nemo_bt.errors import UserError
from nemo_bt.scorer import RewardScorer
from nemo_bt.scoring.checks import check_score
from nemo_bt.scoring.command import open_rows
from nemo_bt.scoring.settings import ScoreRun
from nemo_bt.stopping import STOPPED_STATUS
from tests.hf_models import save
from tests.layouts import CP2, EP2, PP2, SP, TP2
from tests.preferences import messages
from tests.runs import convert, free_port, nemo_bt, torchrun

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


@torch.no_grad()
def alone(model: Path, conversations: list[Any], tokenizer: Any) -> list[float]:
    hf = AutoModelForSequenceClassification.from_pretrained(model, torch_dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    return [hf(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item() for text in texts]


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[RewardScorer]:
    with RewardScorer.from_pretrained(model, accelerator="cpu", tokens_per_stream=500) as scorer:
        yield scorer


def test_rewards_equal_transformers_whatever_the_order_and_the_company(
    scorer: RewardScorer, rows: list[dict[str, Any]], expected: list[float]
) -> None:
    conversations = [row[side] for row in rows for side in ("chosen", "rejected")]
    assert max(expected) - min(expected) > 0.1
    assert scorer.score_batch(conversations) == pytest.approx(expected, abs=TOLERANCE)
    order = random.Random(1).sample(range(len(conversations)), len(conversations))
    shuffled = scorer.score_batch([conversations[i] for i in order] + conversations[:3])
    assert shuffled == pytest.approx([expected[i] for i in order] + expected[:3], abs=TOLERANCE)
    assert scorer.score(conversations[5]) == pytest.approx(expected[5], abs=TOLERANCE)
    assert scorer.score_batch([]) == []


def test_two_conversations_are_compared(
    scorer: RewardScorer, rows: list[dict[str, Any]], expected: list[float]
) -> None:
    a, b = rows[0]["chosen"], rows[0]["rejected"]
    margin = expected[0] - expected[1]
    found = scorer.compare(a, b)
    assert found.winner == ("a" if margin > 0 else "b")
    assert found.margin == pytest.approx(margin, abs=TOLERANCE)
    assert found.probability == pytest.approx(torch.tensor(margin).sigmoid().item(), abs=TOLERANCE)
    assert scorer.compare(b, a).winner != found.winner
    assert (scorer.compare(a, a).winner, scorer.compare(a, a).probability) == ("tie", 0.5)


def test_far_apart_rewards_and_transcripts(scorer: RewardScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = "\n\nHuman: Tea?\n\nAssistant: Yes."
    assert scorer.score(transcript) == pytest.approx(scorer.score(messages("Tea?", "Yes.")), abs=1e-6)
    for rewards, expected in (([800.0, 0.0], 1.0), ([0.0, 800.0], 0.0)):
        monkeypatch.setattr(scorer, "score_batch", lambda _, rewards=rewards: rewards)
        assert scorer.compare("a", "b").probability == expected


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "conversation 0 cannot be scored: roles"),
        ([{"role": "user", "content": "Tea?"}], "cannot be scored: roles"),
        ([{"role": "assistant"}], "a message without content"),
        (b"bytes", "cannot be scored: type"),
        ("\ud83d", "cannot be scored: unicode"),
    ],
)
def test_what_is_no_conversation_is_refused(scorer: RewardScorer, conversation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.score(conversation)


def test_an_unknown_precision_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="precision: expected"):
        RewardScorer.from_pretrained(model, precision="bf16")


def test_what_cannot_be_scored_is_named(scorer: RewardScorer, model: Path) -> None:
    scorer.longest_tokens, longest = 20, scorer.longest_tokens
    with pytest.raises(ValueError, match=r"conversation 1 cannot be scored: long, \d+ tokens"):
        scorer.score_batch(["short", "word " * 50])
    scorer.longest_tokens = longest
    assert scorer.score("word " * 50) == pytest.approx(scorer.score_batch(["a", "word " * 50])[1], abs=TOLERANCE)


def arguments(model: Path, data: Path, output: Path) -> list[str]:
    return [
        f"model.restore_from_path={model}",
        f"score.input={data}",
        f"score.output={output}",
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
    for run in runs:
        run["overrides"] += ["trainer.devices=2"]
    (folder / "runs.json").write_text(json.dumps(runs))
    result = torchrun(2, "tests.score_ranks", folder / "runs.json")
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


def test_tables_of_other_columns_do_not_become_one(tmp_path: Path, model: Path) -> None:
    for name, more in (("a", {}), ("b", {"id": 1})):
        pq.write_table(pa.Table.from_pylist([{"text": "a"} | more]), tmp_path / f"{name}.parquet")
    given = [f"model.restore_from_path={model}", f"score.input={tmp_path}/*.parquet"]
    run = load_settings_of(ScoreRun, "score", [*given, f"score.output={tmp_path / 'out.parquet'}"])
    with pytest.raises(UserError, match=r"b.parquet: its columns are not those of .*a.parquet"):
        open_rows(run, *check_score(run))


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
