"""nemo-bt plan --trace: a user's own job on a device of shapes alone, beside the plan."""

import json
from pathlib import Path

import pytest

from nemo_bt.cli.main import run
from nemo_bt.config.load import load_settings
from nemo_bt.planning.trace import stage_and_data_rank
from tests.support.phantom import missing

SMALL = [
    "model=llama3_8b",
    "model.num_layers=2",
    "model.vocab_size=32000",
    "model.tensor_model_parallel_size=2",
    "model.pipeline_model_parallel_size=2",
    "trainer.devices=8",
    "trainer.num_nodes=2",
]
LACKS = missing()
traces = pytest.mark.skipif(LACKS is not None, reason=str(LACKS))


@traces
def test_a_job_of_sixteen_ranks_beside_its_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Of its second pipeline stage, in the tables' numbers and in the plan's."""
    assert run(["plan", "--trace", "--json", "--rank", "9", *SMALL, "model.global_batch_size=128"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rank"], found["world_size"], found["stage"]) == (9, 16, 1)
    assert found["verdict"].startswith("rank 9 fits: ")
    step = found["record"]["sections"][-2]
    assert step["peak"] == pytest.approx(found["planned"]["total"], rel=0.03)
    assert found["planned_full"]["total"] > found["planned"]["total"]
    assert step["streams"]
    assert {(one["operation"], one["group"], one["ranks"]) for one in step["messages"]} >= {
        ("receive", "pp", 2),
        ("all_reduce", "tp", 2),
        ("reduce_scatter", "dp", 4),
    }
    assert step["waits"]
    assert sum(step["flops"].values()) > 0


LOSS = """
import torch

def wrong(chosen_P, rejected_P, margin_P, weight_P):
    return -torch.nn.functional.logsigmoid(chosen_P - rejected_P.cpu())
"""


@traces
def test_what_would_end_the_job_on_a_gpu_is_told_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(LOSS)
    own = [f"model.loss.custom_fn.path={tmp_path / 'mine.py'}", "model.loss.custom_fn.name=wrong"]
    assert run(["plan", "--trace", *SMALL, *own, "--rank", "8"]) == 1
    shown = capsys.readouterr()
    first, *places = shown.err.splitlines()
    assert first.startswith("error: the run would end in forward: ")
    assert any("mine.py:5 wrong" in place for place in places)
    assert "fits" not in shown.out


@traces
def test_a_job_that_is_too_big_ends_with_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--trace", *SMALL, "cluster.memory_bytes=3e9", "cluster.reserved_bytes=1e9"]) == 2
    shown = capsys.readouterr()
    assert "of 1.86. Give more tensor or pipeline parallelism" in shown.err.splitlines()[0]
    assert "held by" in shown.out


@traces
def test_a_job_of_one_step_with_short_texts_that_saves_each(capsys: pytest.CaptureFixture[str]) -> None:
    """A trace has two steps of it all the same, and none of its saves, which need the ranks that are not there."""
    short = ["trainer.max_steps=1", "exp_manager.checkpoint_callback_params.every_n_train_steps=1"]
    short += ["model.encoder_seq_length=512", "model.data.chat_template=llama3"]
    assert run(["plan", "--trace", "--json", *SMALL, *short]) == 0
    record = json.loads(capsys.readouterr().out)["record"]
    assert [section["name"] for section in record["sections"]] == ["build", "0", "1", "save"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rank", "3"], "--rank=3 names the rank of a trace: add --trace."),
        (["--trace", "--rank", "16"], "--rank: expected 0 to 15, got 16."),
        (["--trace", "cluster.compute_capability=null"], "cluster=h100 has no GPUs"),
        (["--trace", "model.data.train=pairs.jsonl"], "model.tokenizer.type: expected a tokenizer folder"),
    ],
)
def test_what_cannot_be_traced(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *SMALL, *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mapping", "rank", "expected"),
    [("false", 0, (0, 0)), ("false", 11, (1, 1)), ("false", 7, (0, 3)), ("true", 11, (1, 2)), ("true", 7, (1, 1))],
)
def test_where_a_rank_lies(mapping: str, rank: int, expected: tuple[int, int]) -> None:
    """By hand: ranks go tensor, data, pipeline, or tensor, pipeline, data."""
    settings = load_settings("train", [*SMALL, f"model.use_tp_pp_dp_mapping={mapping}"])
    assert stage_and_data_rank(settings, rank) == expected
