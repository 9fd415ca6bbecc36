"""Every shipped recipe composes, is valid as it stands, and trains and resumes on a tiny model of its family."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemo_bt.config.load import load_settings
from nemo_bt.training.checks import check_settings
from tests.support.data_rows import ROWS
from tests.support.hf_models import save
from tests.support.runs import REPO, Run, metrics, run_together
from tests.support.sources import write
from tests.support.token_truth import LLAMA3_MARKS, with_tokens

RECIPES = sorted(path.stem for path in (REPO / "conf" / "recipe").glob("*.yaml"))
FAMILIES = {
    "rlhflow_gemma_2b": "gemma", "rlhflow_mistral_7b": "mistral", "rm_gallery_qwen2_5_7b": "qwen2",
    "mixtral_8x7b": "mixtral", "arena_ties_qwen2_5_7b": "qwen2",
}  # fmt: skip
PUBLISHED = {
    "arena_ties_qwen2_5_7b": (8e-6, 512, 1, "constant", 8192),
    "halos_llama3_8b": (5e-6, 32, 1, "constant", 1250),
    "helpsteer2_llama3_70b": (2e-6, 64, 2, "constant", 4096),
    "llama3_70b": (1e-6, 64, 1, "constant", 4096),
    "mixtral_8x7b": (3e-6, 128, 1, "WarmupAnnealing", 2048),
    "nemo_aligner_hh": (9e-6, 64, 1, "CosineAnnealing", 4096),
    "one_gpu_llama3_2_1b": (1e-5, 128, 1, "CosineAnnealing", 4096),
    "one_h100_llama3_1_8b_lora": (1e-4, 128, 1, "CosineAnnealing", 4096),
    "one_h200_llama3_1_8b": (2e-6, 128, 1, "CosineAnnealing", 4096),
    "open_instruct_tulu3_8b": (3e-6, 256, 1, "WarmupAnnealing", 2048),
    "rlhflow_gemma_2b": (1e-5, 256, 1, "CosineAnnealing", 4096),
    "rlhflow_llama3_8b": (2e-6, 512, 1, "CosineAnnealing", 4096),
    "rlhflow_mistral_7b": (5e-6, 512, 1, "CosineAnnealing", 4096),
    "rm_gallery_qwen2_5_7b": (5e-7, 256, 3, "CosineAnnealing", 4096),
    "ultrafeedback_lists_llama3_8b": (1e-5, 512, 1, "WarmupAnnealing", 4096),
}
NEEDED = ["exp_manager.explicit_log_dir=x", "model.restore_from_path=x"]
SHAPES = {
    "rlhflow_gemma_2b": ("gemma", 18, 2048, 8, 1, 256_000), "rlhflow_mistral_7b": ("mistral", 32, 4096, 32, 8, 32_000),
    "rlhflow_llama3_8b": ("llama", 32, 4096, 32, 8, 128_256), "halos_llama3_8b": ("llama", 32, 4096, 32, 8, 128_256),
    "rm_gallery_qwen2_5_7b": ("qwen2", 28, 3584, 28, 4, 152_064), "llama3_70b": ("llama", 80, 8192, 64, 8, 128_256),
    "open_instruct_tulu3_8b": ("llama", 32, 4096, 32, 8, 128_264), "mixtral_8x7b": ("mixtral", 32, 4096, 32, 8, 32_000),
    "nemo_aligner_hh": ("llama", 32, 4096, 32, 32, 32_000),
    "helpsteer2_llama3_70b": ("llama", 80, 8192, 64, 8, 128_256),
    "ultrafeedback_lists_llama3_8b": ("llama", 32, 4096, 32, 8, 128_256),
    "arena_ties_qwen2_5_7b": ("qwen2", 28, 3584, 28, 4, 152_064),
    "one_gpu_llama3_2_1b": ("llama", 16, 2048, 32, 8, 128_256),
    "one_h100_llama3_1_8b_lora": ("llama", 32, 4096, 32, 8, 128_256),
    "one_h200_llama3_1_8b": ("llama", 32, 4096, 32, 8, 128_256),
}  # fmt: skip
"""model_type, layers, width, heads, key heads and vocabulary of the model that each starts from."""


def tiny_config(recipe: str, folder: Path) -> Path:
    """A configuration that builds on the recipe, with files that are here in the place of the hub's."""
    settings = load_settings(f"recipe/{recipe}", NEEDED)
    sources = []
    for source in settings.model.data.train:
        file = write(folder / f"{recipe}-{source.name}.parquet", ROWS[source.name] * 8)
        sources.append(asdict(source) | {"path": file} | ({"count": 4} if source.count else {}))
    config = {"defaults": [f"recipe/{recipe}", "_self_"], "model": {"data": {"train": sources}}}
    (folder / f"{recipe}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / f"{recipe}.yaml"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_where_it_comes_from_and_has_the_published_settings(recipe: str, tmp_path: Path) -> None:
    head = [
        line[2:] for line in (REPO / "conf" / "recipe" / f"{recipe}.yaml").read_text().splitlines() if line[:1] == "#"
    ]
    assert any(line.startswith("Result: ") for line in head)
    assert "github.com/" in "\n".join(head) or "docs/" in "\n".join(head)
    settings = load_settings(f"recipe/{recipe}", NEEDED)
    model = settings.model
    found = (
        *(model.optim.lr, model.global_batch_size, settings.trainer.max_epochs),
        *(model.optim.sched.name, model.encoder_seq_length),
    )
    assert found == PUBLISHED[recipe]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_valid_for_the_model_that_it_starts_from(recipe: str, tmp_path: Path) -> None:
    kind, layers, hidden, heads, groups, vocab = SHAPES[recipe]
    config = {
        "model_type": kind, "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": groups, "vocab_size": vocab, "intermediate_size": 4 * hidden, "head_dim": 128,
        "tie_word_embeddings": False, "max_position_embeddings": 32_768,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = load_settings(
        f"recipe/{recipe}", ["exp_manager.explicit_log_dir=x", f"model.restore_from_path={tmp_path}"]
    )
    pretrained = check_settings(settings)
    assert pretrained
    assert pretrained.architecture.num_layers == layers
    assert settings.data_parallel_size >= 1


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Log directories of three steps of each and, resumed as a Slurm job does, a fourth, from one launch."""
    folder = tmp_path_factory.mktemp("recipes")
    named = {load_settings(f"recipe/{recipe}", NEEDED).model.tokenizer.pad_token for recipe in RECIPES} - {None}
    tokenizer = with_tokens(tokenizer, *sorted(named), *LLAMA3_MARKS)
    models = {}
    for family in sorted({FAMILIES.get(recipe, "llama2, a key per query") for recipe in RECIPES}):
        model = folder / f"model-{len(models)}"
        models[family] = save(family, model, classifier=False, tokenizer=tokenizer, vocab_size=len(tokenizer))
    runs = []
    for recipe in RECIPES:
        start = models[FAMILIES.get(recipe, "llama2, a key per query")]
        tiny = [
            f"exp_manager.explicit_log_dir={folder / recipe}",
            f"model.restore_from_path={start}",
            "model.encoder_seq_length=256",
            "model.tensor_model_parallel_size=1",
            "model.pipeline_model_parallel_size=1",
            "model.sequence_parallel=false",
            "model.global_batch_size=16",
            "model.data.max_bad_fraction=0.5",
            "trainer.devices=1",
            "trainer.num_nodes=1",
            "trainer.accelerator=cpu",
            "trainer.precision=32",
            "model.optim.use_precision_aware_optimizer=false",
            "model.optim.exp_avg_dtype=fp32",
            "model.optim.exp_avg_sq_dtype=fp32",
            "trainer.max_epochs=null",
            "trainer.log_every_n_steps=1",
            "exp_manager.resume_if_exists=true",
        ]
        config = tiny_config(recipe, folder)
        runs += [Run([*tiny, f"trainer.max_steps={steps}"], config=config) for steps in (3, 4)]
    run_together(1, runs, folder, timeout_s=400)
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_three_steps_and_goes_on(recipe: str, logs: Path) -> None:
    losses = metrics(logs / recipe, "train/loss")
    assert len(losses) == 4
    assert all(0.0 < loss < 10.0 for loss in losses)
    assert all(metrics(logs / recipe, "train/grad_norm"))


def test_lists_and_ties_begin_with_the_losses_of_equal_rewards(logs: Path) -> None:
    """Lists of four, of which half have two best ones; a tie is as likely as a win where rewards are equal."""
    (lists, *_), (ties, *_) = (
        metrics(logs / recipe, "train/loss") for recipe in ("ultrafeedback_lists_llama3_8b", "arena_ties_qwen2_5_7b")
    )
    assert lists == pytest.approx((math.log(24) + math.log(6)) / 2, abs=0.01)
    assert ties == pytest.approx(math.log(3), abs=0.01)


def test_a_mixture_logs_every_source(logs: Path) -> None:
    lines = (logs / "rlhflow_mistral_7b" / "metrics.jsonl").read_text().splitlines()
    names = {key.split("/")[2] for line in lines for key in json.loads(line) if key.startswith("train/source/")}
    assert names <= {"hh", "shp", "ultrafeedback", "helpsteer", "capybara", "orca", "safe_rlhf"}
    assert len(names) >= 4
    for line in lines:
        record = json.loads(line)
        pairs = {key: record[key] for key in record if key.endswith("/pairs")}
        if pairs:
            assert sum(pairs.values()) == 16
            total = sum(record[key.replace("/pairs", "/loss")] * count for key, count in pairs.items())
            assert total / 16 == pytest.approx(record["train/loss"])


def test_learning_rates_are_the_schedules(logs: Path) -> None:
    """Three steps: linear decay without warm-up; a warm-up of a tenth of three steps is one step."""
    assert metrics(logs / "open_instruct_tulu3_8b", "train/lr")[:3] == pytest.approx([3e-6, 2e-6, 1e-6])
    assert metrics(logs / "halos_llama3_8b", "train/lr")[:3] == pytest.approx([2.5e-6, 5e-6, 5e-6])
