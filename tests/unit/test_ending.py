"""What stands at the end of a run: the next commands, which read the pairs as the run did."""

import io
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.ending import summarise, tell_next
from nemo_bt.training.prepare import tell_long_warmup

NEEDS = ["model=llama_4x256", "model.data.train=a.jsonl"]


def told(log_dir: Path, *overrides: str) -> list[str]:
    (log_dir / "checkpoints" / "reward-step3.nemo").mkdir(parents=True, exist_ok=True)
    settings = load_settings("train", [*NEEDS, f"exp_manager.explicit_log_dir={log_dir}", *overrides])
    out = io.StringIO()
    tell_next(settings, {}, Terminal(out))
    return [line for line in out.getvalue().splitlines() if line.startswith("  nemo-bt")]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.data.validation=v.csv"], "evaluate.input=v.csv"),
        (["model.data.validation=v.csv", "model.data.prompt_key=question"], "model.data.prompt_key=question"),
        (["model.data.validation=v.csv", "model.data.join=' '"], "'model.data.join= '"),
        (["model.data.validation=v.csv", "model.data.ignore_columns=[a,b]"], "'model.data.ignore_columns=[a,b]'"),
        (["model.data.validation.v={path: org/set, split: test}"], "evaluate.input=org/set"),
        (["model.data.validation.v={path: org/set, split: test}"], "evaluate.split=test"),
        (
            ["model.data.validation=v.csv", "model.tensor_model_parallel_size=2", "trainer.devices=2"],
            "trainer.devices=2",
        ),
    ],
)
def test_evaluate_reads_the_pairs_as_the_run_did(tmp_path: Path, overrides: list[str], words: str) -> None:
    export, evaluate, report = told(tmp_path, *overrides)
    assert f"--input {tmp_path}/checkpoints/reward-step3.nemo --output {tmp_path}/export" in export
    assert f" {words} " in f"{evaluate} "
    assert report.endswith(f"report {tmp_path}")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.data.validation={a: a.csv, b: b.csv}"],
        ["model.data.validation.v={path: v.csv, count: 9}"],
        ["model.data.validation=v.csv", "model.data.pairs.min_margin=1"],
        ["model.data.train={path: a.csv, join: ' '}", "model.data.validation=v.csv"],  # the model keeps the join
    ],
)
def test_where_a_command_line_cannot_say_it_evaluate_is_left_out(tmp_path: Path, overrides: list[str]) -> None:
    assert [line.split()[1] for line in told(tmp_path, *overrides)] == ["export", "report"]


@pytest.mark.parametrize(
    ("override", "steps", "warmup"),
    [
        ("model.optim.sched.warmup_steps=null", 100, 10),
        ("model.optim.sched.warmup_ratio=0.031", 100, 4),
        ("model.optim.sched.warmup_steps=0", 100, 0),
        ("model.optim.sched.warmup_steps=7", 7, 7),
    ],
)
def test_a_warm_up_that_lasts_to_the_end_is_told(tmp_path: Path, override: str, steps: int, warmup: int) -> None:
    settings = load_settings("train", [*NEEDS, f"exp_manager.explicit_log_dir={tmp_path}", override])
    assert settings.model.optim.sched.num_warmup_steps(steps) == warmup
    out = io.StringIO()
    tell_long_warmup(settings, steps, Terminal(out))
    assert ("rises to the end: the warm-up takes 7 steps, the run has 7." in " ".join(out.getvalue().split())) == (
        warmup == steps
    )


def test_the_end_of_a_run_has_a_table_of_attributes() -> None:
    validation = {"step": 3, "val/a/loss": 1.0, "val/a/margin": 0.5, "val/a/attribute/humour/known": 0.0}
    validation |= {f"val/a/attribute/help/{key}": n for key, n in (("known", 1200.0), ("error", 0.5), ("reward", 2.0))}
    out = io.StringIO()
    sets: dict[str, Any] = {"a": None}
    summarise(validation, sets, 1.0, Terminal(out))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["a", "help", "1,200", "0.5000", "2.0000"] in lines
    assert ["a", "humour", "0", "-", "-"] in lines
