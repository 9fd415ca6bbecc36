"""The two commands, as users run them, and what others do with their output."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from nemo_bt.data.tokenize.foreign_tokenizer import tokenizer_files
from tests.support.converted import tensors
from tests.support.runs import convert, metrics, nemo_bt, training

TEXTS = ["Give Ann tea.", "Bob wants soup and rice, and later some cake. Bring him figs.", "Eve"]


def test_hf_to_nemo_tells_what_it_did(packed: tuple[Path, str]) -> None:
    path, said = packed
    assert path.is_file()
    assert "base model (qwen3, Hugging Face folder), head new, seed 1234, norm" in said
    for name in ("architecture   qwen3", "0.4 MB, bfloat16", "largest difference", "tolerance 1e-04", f"{path}"):
        assert name in said


def test_training_says_which_weights_it_starts_from(packed: tuple[Path, str], trained: tuple[Path, str]) -> None:
    assert f"{packed[0].parent / 'start.nemo'}: reward model (qwen3, .nemo), head kept, norm" in trained[1]


def test_training_and_exporting_changes_head_and_trunk_and_keeps_the_tokenizer(base: Path, exported: Path) -> None:
    before, after = tensors(base), tensors(exported)
    assert after.keys() - {"score.weight"} == before.keys() - {"lm_head.weight"}
    changed = {name for name in after.keys() & before.keys() if not torch.equal(after[name], before[name].float())}
    assert changed == after.keys() & before.keys()
    assert {file.name: file.read_bytes() for file in tokenizer_files(exported)} == {
        file.name: file.read_bytes() for file in tokenizer_files(base)
    }


def test_a_run_continues_at_two_ranks_when_its_start_is_gone(
    trained: tuple[Path, str], packed: tuple[Path, str], dataset: Path, tmp_path: Path
) -> None:
    """Model and tokenizer are the checkpoint's; the start is only compared by name."""
    log_dir = shutil.copytree(trained[0], tmp_path / "run")
    start = packed[0].parent / "start.nemo"
    start.unlink(missing_ok=True)
    argv = [*training(dataset, log_dir, start), "exp_manager.resume_if_exists=true", "trainer.devices=2"]
    result = nemo_bt(*argv, "trainer.max_steps=6")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"resuming from {log_dir}/checkpoints/reward-step5.nemo" in result.stdout
    kept = log_dir / "checkpoints" / "reward-step6.nemo" / "context" / "tokenizer"
    before = trained[0] / "checkpoints" / "reward-step5.nemo" / "context" / "tokenizer"
    assert {f.name: f.read_bytes() for f in kept.iterdir()} == {f.name: f.read_bytes() for f in before.iterdir()}


def test_the_model_card_has_the_facts_of_the_training(trained: tuple[Path, str], exported: Path) -> None:
    card = (exported / "README.md").read_text()
    accuracy = metrics(trained[0], "val/held_out/accuracy")[-1]
    for fact in (
        "| data | `random.parquet` |",
        "| started from | `start.nemo` |",
        "| optimizer steps | 5, each of 64 pairs |",
    ):
        assert fact in card
    assert "## Evaluation after step 5" in card
    assert f"| held_out | {accuracy:.4f} |" in card


@pytest.mark.parametrize("side", ["right", "left"])
def test_text_classification_pipeline_gives_the_rewards(exported: Path, side: str) -> None:
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(exported),
        AutoTokenizer.from_pretrained(exported),
    )
    expected = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in TEXTS]
    tokenizer.padding_side = side
    classify = pipeline(
        "text-classification", model=str(exported), tokenizer=tokenizer, function_to_apply="none", device="cpu"
    )
    found = classify(TEXTS, batch_size=len(TEXTS))
    assert [reward["score"] for reward in found] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == len(TEXTS)


@pytest.mark.parametrize("side", ["right", "left"])
def test_trl_trains_on_from_the_export(exported: Path, tmp_path: Path, side: str) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(exported),
        AutoTokenizer.from_pretrained(exported),
    )
    tokenizer.padding_side = side
    before = model.score.weight.detach().clone()
    config = RewardConfig(
        output_dir=str(tmp_path), max_steps=2, report_to=[], use_cpu=True, bf16=False, save_strategy="no"
    )
    rows = [{"chosen": TEXTS[1], "rejected": TEXTS[0]}, {"chosen": TEXTS[1], "rejected": TEXTS[2]}] * 8
    trainer = RewardTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    assert trainer.train().training_loss > 0
    assert not torch.equal(model.score.weight, before)


def test_a_tokenizer_that_emits_token_type_ids_is_told_not_to(
    converters_folder: Path, packed: tuple[Path, str], tmp_path: Path
) -> None:
    """Classifiers that take just the inputs of a decoder reject them."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    emitting = AutoTokenizer.from_pretrained(converters_folder / "base", model_input_names=names)
    emitting.save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "out"
    argv = ("--input", packed[0], "--output", out, "--no-check", "--tokenizer", tmp_path / "tokenizer")
    result = convert("nemo_to_hf", *argv, "--dtype", "fp32")
    assert result.returncode == 0, result.stderr
    assert "not compared (--no-check)" in result.stdout
    assert tensors(out)["score.weight"].dtype == torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert "token_type_ids" in emitting(TEXTS, padding=True, return_tensors="pt")
    inputs = AutoTokenizer.from_pretrained(out)(TEXTS, padding=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    rewards = model(**inputs).logits
    assert rewards.shape == (3, 1)
