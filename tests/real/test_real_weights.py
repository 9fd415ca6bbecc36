"""Real weights from end to end: rewards as transformers gives them, training, resuming, export, both ways unchanged."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import pipeline

from tests.interop.environment import run
from tests.support.converted import tensors
from tests.support.layouts import checkpoint
from tests.support.real_weights import Real
from tests.support.reference import padded_rewards
from tests.support.runs import convert, metrics, nemo_bt
from tests.support.sources import write
from tests.support.token_truth import true_ids

DATA = Path(os.environ.get("NEMO_BT_REAL_DATA") or Path(__file__).parents[3] / "shared" / "data") / "hh_train.parquet"
LAYOUTS = {"one rank": (), "TP3": ("tensor", 3), "PP2": ("pipeline", 2)}
BATCH = 8
STEPS, KEPT = 4, 2

pytestmark = pytest.mark.skipif(not DATA.is_file(), reason=f"no {DATA}: NEMO_BT_REAL_DATA names its folder")


def messages_of(transcript: str) -> list[dict[str, str]]:
    parts = re.split(r"\n\n(Human|Assistant): ?", transcript)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said} for who, said in zip(parts[::2], parts[1::2], strict=True)]


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """The first 32 pairs of up to 900 characters, as messages."""
    both = [row for row in pq.read_table(DATA).to_pylist() if len(row["chosen"]) + len(row["rejected"]) < 900]
    return [{side: messages_of(row[side]) for side in ("chosen", "rejected")} for row in both[:32]]


@pytest.fixture(scope="session")
def file(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


def at(layout: str) -> list[str]:
    if layout == "one rank":
        return ["trainer.accelerator=cpu"]
    kind, size = LAYOUTS[layout]
    return ["trainer.accelerator=cpu", f"trainer.devices={size}", f"model.{kind}_model_parallel_size={size}"]


def fits(real: Real, layout: str) -> bool:
    """Gemma has one key head, which Megatron does not split."""
    return layout != "TP3" or real.model.name.startswith("SmolLM2")


def scored(model: Path, file: str, out: Path, layout: str = "one rank") -> list[float]:
    """Rewards of chosen and rejected in turn, by the command."""
    argv = [f"model.restore_from_path={model}", f"score.input={file}", f"score.output={out}", *at(layout)]
    result = nemo_bt("score", *argv, timeout_s=600, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stdout + result.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    return [row[f"reward_{side}"] for row in found for side in ("chosen", "rejected")]


def difference(found: list[float], expected: list[float]) -> float:
    """Largest difference, as a share of the largest reward."""
    assert len(found) == len(expected)
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / max(map(abs, expected))


@pytest.fixture(scope="module")
def expected(real: Real, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """transformers' rewards by side of the padding."""
    model, tokenizer = real.reference(), real.tokenizer
    texts = [true_ids(tokenizer, row[side], real.model.adds_bos) for row in rows for side in ("chosen", "rejected")]
    sequences = [torch.tensor(ids).numpy() for ids in texts]
    assert model.config.pad_token_id == 0  # what padded_rewards fills with
    with torch.no_grad():
        return {
            side: torch.cat(
                [padded_rewards(model, sequences[i : i + BATCH], side) for i in range(0, len(sequences), BATCH)]
            ).tolist()
            for side in ("right", "left")
        }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rewards_equal_transformers(
    real: Real, expected: dict[str, list[float]], file: str, tmp_path: Path, layout: str
) -> None:
    if not fits(real, layout):
        pytest.skip("one key head")
    found = scored(real.classifier, file, tmp_path / "out.jsonl", layout)
    apart = {side: difference(found, rewards) for side, rewards in expected.items()}
    print(f"{real.model.name} {layout}: {len(found)} rewards, std {torch.tensor(found).std():.2f}, differences {apart}")
    assert max(apart.values()) < 1e-4
    assert torch.tensor(found).std() > 0.1


def test_there_and_back_every_bit_is_the_same(real: Real, tmp_path: Path) -> None:
    there = convert(
        "hf_to_nemo", "--input", real.classifier, "--output", tmp_path / "there.nemo", "--no-check", timeout_s=600
    )
    assert there.returncode == 0, there.stderr
    back = convert(
        "nemo_to_hf", "--input", tmp_path / "there.nemo", "--output", tmp_path / "back", "--no-check", timeout_s=600
    )
    assert back.returncode == 0, back.stderr
    before, after = tensors(real.classifier), tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view(torch.int32), after[name].view(torch.int32)) for name in before)
    shutil.rmtree(tmp_path)


def train(real: Real, file: str, name: str, layout: str, *extra: str) -> list[float]:
    """Losses of a run from the published weights, on the 32 pairs."""
    log_dir = real.folder / name
    result = nemo_bt(
        "train",
        f"model.restore_from_path={real.published}",
        f"model.data.train={file}",
        f"exp_manager.explicit_log_dir={log_dir}",
        "model.tokenizer.pad_token=auto",
        "model.global_batch_size=8",
        "model.data.tokens_per_micro_batch=1024",
        "model.encoder_seq_length=1024",
        "model.optim.lr=1e-5",
        "model.optim.sched.warmup_steps=0",
        f"trainer.max_steps={STEPS}",
        "trainer.log_every_n_steps=1",
        f"exp_manager.checkpoint_callback_params.every_n_train_steps={KEPT}",
        *at(layout),
        *extra,
        timeout_s=900,
        OMP_NUM_THREADS="1",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return metrics(log_dir, "train/loss")


@pytest.fixture(scope="module")
def trained(real: Real, file: str) -> list[float]:
    losses = train(real, file, "trained", "one rank")
    print(f"{real.model.name}: losses {losses}")
    return losses


def test_a_resumed_run_has_the_same_losses(real: Real, trained: list[float], file: str) -> None:
    kept = checkpoint(real.folder / "trained", KEPT)
    shutil.copytree(kept, real.folder / "resumed" / "checkpoints" / kept.name, copy_function=os.link)
    again = train(real, file, "resumed", "one rank", "exp_manager.resume_if_exists=true")
    shutil.rmtree(real.folder / "resumed")
    assert len(trained) == STEPS
    assert again == trained[KEPT:]


@pytest.mark.parametrize("layout", ["TP3", "PP2"])
def test_losses_are_those_of_one_rank(real: Real, trained: list[float], file: str, layout: str) -> None:
    if not fits(real, layout):
        pytest.skip("one key head")
    losses = train(real, file, layout, layout)
    shutil.rmtree(real.folder / layout)
    print(f"{real.model.name} {layout}: losses {losses}")
    assert losses == pytest.approx(trained, rel=1e-4)


@pytest.fixture(scope="module")
def exported(real: Real, trained: list[float]) -> Path:
    folder = real.folder / "exported"
    kept = checkpoint(real.folder / "trained", len(trained))
    result = convert("nemo_to_hf", "--input", kept, "--output", folder, timeout_s=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_export_gives_its_rewards_in_transformers_pipeline(
    real: Real, exported: Path, rows: list[dict[str, Any]], file: str, tmp_path: Path
) -> None:
    ours = scored(checkpoint(real.folder / "trained", STEPS), file, tmp_path / "out.jsonl")
    classify = pipeline("text-classification", model=str(exported), function_to_apply="none", device="cpu")
    texts = [
        classify.tokenizer.apply_chat_template(row[side], tokenize=False)
        for row in rows
        for side in ("chosen", "rejected")
    ]
    theirs = [one["score"] for one in classify(texts, batch_size=BATCH, add_special_tokens=False)]
    print(f"{real.model.name}: the pipeline's rewards differ by {difference(ours, theirs):.1e}")
    assert difference(ours, theirs) < 1e-4


def test_rewardbenchs_own_command_counts_as_evaluate_does(
    real: Real, exported: Path, file: str, tmp_path: Path
) -> None:
    if not real.model.name.startswith("SmolLM2"):
        pytest.skip("the transformers of rewardbench 0.1.4 has no classifier of Gemma 3's text model")
    result = nemo_bt(
        "evaluate",
        f"model.restore_from_path={exported}",
        f"evaluate.input={file}",
        f"evaluate.output={tmp_path / 'ours'}",
        "trainer.accelerator=cpu",
        timeout_s=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    overall = json.loads((tmp_path / "ours" / "results.json").read_text())["overall"]
    argv = [f"--model={exported}", f"--dataset={file}", "--load_json", "--not_quantized", "--torch_dtype=float32"]
    argv += ["--max_length=1024", "--batch_size=4", f"--output_dir={tmp_path}"]
    printed = run("rewardbench", "without_cuda", "rewardbench.rewardbench", *argv, folder=tmp_path)
    found = re.search(r"Results: ([\d.]+), on (\d+) prompts", printed)
    assert found, printed[-2000:]
    print(f"{real.model.name}: rewardbench counts {found[1]} of {found[2]} pairs, evaluate {overall['accuracy']}")
    assert (float(found[1]), int(found[2])) == (overall["accuracy"], overall["pairs"])
