"""A trained model labels samples, and a second model learns from the labels alone."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.layouts import checkpoint
from tests.support.runs import metrics, nemo_bt

STEPS = 45


def train(dataset: Path, data: Path, log_dir: Path) -> tuple[float, float]:
    """Accuracy on held-out pairs before and after."""
    result = nemo_bt(
        "train",
        "--config-name=quickstart",
        "exp_manager.name=reward",
        "trainer.devices=1",
        "model.tensor_model_parallel_size=1",
        f"trainer.max_steps={STEPS}",
        "trainer.validate_at_start=true",
        "trainer.val_check_interval=1.0",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        f"model.data.train={data}",
        f"+model.data.validation.held_out={dataset / 'validation.parquet'}",
        f"exp_manager.explicit_log_dir={log_dir}",
    )
    assert result.returncode == 0, result.stderr
    before, after = metrics(log_dir, "val/held_out/accuracy")
    return before, after


def test_a_second_model_learns_from_labels(dataset: Path, tmp_path: Path) -> None:
    """Samples are the answers of the training set, two at a time, without a word about which is right."""
    _, taught = train(dataset, dataset / "train.parquet", tmp_path / "teacher")
    draw, samples = random.Random(1), []
    for number, row in enumerate(pq.read_table(dataset / "train.parquet").to_pylist()):
        answers = [row[side][-1]["content"] for side in ("chosen", "rejected")]
        draw.shuffle(answers)
        samples.append({"prompt_id": number, "prompt": row["chosen"][0]["content"], "completions": answers})
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    result = nemo_bt(
        "label",
        f"model.restore_from_path={checkpoint(tmp_path / 'teacher', STEPS)}",
        f"label.input={tmp_path / 'samples.jsonl'}",
        f"label.output={tmp_path / 'labels.jsonl'}",
        "trainer.accelerator=cpu",
    )
    assert result.returncode == 0, result.stderr
    before, after = train(dataset, tmp_path / "labels.jsonl", tmp_path / "student")
    assert before < 0.7
    assert after > before + 0.2
    assert taught > 0.9
