"""The two commands, as users run them, and what others do with their output."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from converters import hf_to_nemo, nemo_to_hf
from converters.output import ParityError, written_whole
from converters.parity import check_memory, check_parity
from nemo_bt.data.tokenizer import tokenizer_files
from nemo_bt.errors import UserError
from nemo_bt.origin import find_origin, open_weights
from nemo_bt.terminal import Terminal
from nemo_bt.weights.source import TensorInfo
from tests.hf_models import save
from tests.runs import REPO, metrics, nemo_bt
from tests.test_conversion import tensors, to_nemo

SHAPE = "qwen3"
TEXTS = ["Give Ann tea.", "Bob wants soup and rice, and later some cake. Bring him figs.", "Eve"]


def convert(command: str, *argv: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"converters.{command}", *map(str, argv)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converters")


@pytest.fixture(scope="module")
def base(folder: Path, tokenizer: Any) -> Path:
    """A causal language model in bf16, with a tokenizer that says itself which inputs it makes."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path, model_input_names=["input_ids", "attention_mask"])
    return save(SHAPE, folder / "base", classifier=False, dtype=torch.bfloat16, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def packed(folder: Path, base: Path) -> tuple[Path, str]:
    """The base as a reward model in one file, and what the command said."""
    result = convert("hf_to_nemo", "--input", base, "--output", folder / "base.nemo", "--pack")
    assert result.returncode == 0, result.stderr
    return folder / "base.nemo", result.stdout


@pytest.fixture(scope="module")
def trained(folder: Path, packed: tuple[Path, str], dataset: Path) -> tuple[Path, str]:
    """Log directory of five steps on it, and what the command said."""
    argv = ["train", f"model.restore_from_path={packed[0]}", f"model.data.train={dataset / 'random.parquet'}"]
    argv += [f"+model.data.validation.held_out={dataset / 'random_val.parquet'}", "trainer.max_steps=5"]
    argv += [f"exp_manager.explicit_log_dir={folder / 'run'}", "trainer.accelerator=cpu", "model.optim.lr=1e-3"]
    result = nemo_bt(*argv, "model.optim.sched.warmup_steps=0", "model.encoder_seq_length=512")
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run", result.stdout


@pytest.fixture(scope="module")
def exported(folder: Path, trained: tuple[Path, str]) -> Path:
    result = convert(
        "nemo_to_hf", "--input", trained[0] / "checkpoints" / "reward-step5.nemo", "--output", folder / "exported"
    )
    assert result.returncode == 0, result.stderr
    assert "tolerance 1e-04" in result.stdout
    return folder / "exported"


def test_hf_to_nemo_tells_what_it_did(packed: tuple[Path, str]) -> None:
    path, said = packed
    assert path.is_file()
    assert "base model (qwen3, Hugging Face folder), head new, seed 1234, norm" in said
    for name in ("architecture   qwen3", "0.4 MB, bfloat16", "largest difference", "tolerance 1e-04", f"{path}"):
        assert name in said


def test_training_says_which_weights_it_starts_from(packed: tuple[Path, str], trained: tuple[Path, str]) -> None:
    assert f"{packed[0]}: reward model (qwen3, .nemo), head kept, norm" in trained[1]


def test_training_and_exporting_changes_head_and_trunk_and_keeps_the_tokenizer(base: Path, exported: Path) -> None:
    before, after = tensors(base), tensors(exported)
    assert after.keys() - {"score.weight"} == before.keys() - {"lm_head.weight"}
    changed = {name for name in after.keys() & before.keys() if not torch.equal(after[name], before[name].float())}
    assert changed == after.keys() & before.keys()
    assert {file.name: file.read_bytes() for file in tokenizer_files(exported)} == {
        file.name: file.read_bytes() for file in tokenizer_files(base)
    }


def test_the_model_card_has_the_facts_of_the_training(trained: tuple[Path, str], exported: Path) -> None:
    card = (exported / "README.md").read_text()
    accuracy = metrics(trained[0], "val/held_out/accuracy")[-1]
    for fact in (
        "| data | `random.parquet` |",
        "| started from | `base.nemo` |",
        "| optimizer steps | 5 of 64 pairs |",
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
    folder: Path, packed: tuple[Path, str], tmp_path: Path
) -> None:
    emitting = AutoTokenizer.from_pretrained(
        folder / "base", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    emitting.save_pretrained(tmp_path / "tokenizer")
    assert "token_type_ids" in AutoTokenizer.from_pretrained(tmp_path / "tokenizer")("text")
    out = tmp_path / "out"
    argv = (
        "--input",
        packed[0],
        "--output",
        out,
        "--no-check",
        "--tokenizer",
        tmp_path / "tokenizer",
        "--dtype",
        "fp32",
    )
    result = convert("nemo_to_hf", *argv)
    assert result.returncode == 0, result.stderr
    assert "not compared (--no-check)" in result.stdout
    assert tensors(out)["score.weight"].dtype == torch.float32
    classify = pipeline("text-classification", model=str(out), function_to_apply="none", device="cpu")
    assert len(classify(TEXTS, batch_size=3)) == 3


def refused(command: Any, *argv: Any) -> str:
    with pytest.raises(UserError) as error:
        command.convert(command.parse(list(map(str, argv))), Terminal(None))
    return str(error.value)


def test_a_mistake_ends_with_one_line_and_status_2(packed: tuple[Path, str], tmp_path: Path) -> None:
    result = convert("nemo_to_hf", "--input", packed[0], "--output", tmp_path / "out", "--to-causal-lm")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "a reward model has no language-model head" in result.stderr


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        (hf_to_nemo, ["--input", "{packed}", "--output", "{tmp}/x"], "is a .nemo already"),
        (nemo_to_hf, ["--input", "{base}", "--output", "{tmp}/x"], "is a Hugging Face folder already"),
        (hf_to_nemo, ["--input", "{base}", "--output", "{packed}"], "exists. Remove it or choose another name"),
        (hf_to_nemo, ["--input", "/no/such", "--output", "{tmp}/x"], "/no/such does not exist"),
        (nemo_to_hf, ["--input", "{packed}", "--output", "{tmp}/x", "--pad-token", "<none>"], "'<none>' is not in the"),
        (nemo_to_hf, ["--input", "{packed}", "--output", "{tmp}/x", "--max-shard-gb", "0"], "expected more than 0"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    command: Any, argv: list[str], message: str, base: Path, packed: tuple[Path, str], tmp_path: Path
) -> None:
    before = packed[0].read_bytes()
    assert message in refused(command, *(part.format(base=base, packed=packed[0], tmp=tmp_path) for part in argv))
    assert list(tmp_path.iterdir()) == []
    assert packed[0].read_bytes() == before


def test_a_language_model_has_no_reward_to_export(folder: Path, base: Path, tmp_path: Path) -> None:
    origin = find_origin(str(base))
    start = open_weights(origin, 0)
    source = start.source.source  # without the new head
    nemo = to_nemo(origin, replace(start, source=source), tmp_path / "lm.nemo")
    assert "without a reward head" in refused(nemo_to_hf, "--input", nemo, "--output", tmp_path / "x")


@pytest.mark.parametrize("command", ["hf_to_nemo", "nemo_to_hf"])
def test_a_disk_that_takes_no_more_leaves_nothing(
    command: str, base: Path, packed: tuple[Path, str], tmp_path: Path
) -> None:
    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    source = base if command == "hf_to_nemo" else packed[0]
    result = convert(command, "--input", source, "--output", tmp_path / "x", "--no-check", preexec_fn=limit_files)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "could not be written: " in result.stderr
    assert "File too large" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_models_that_disagree_fail_the_check(exported: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    """transformers reads its own config.json: with another one there it scores another model."""
    start = open_weights(find_origin(str(trained[0] / "checkpoints" / "reward-step5.nemo")), 0)
    assert check_parity(exported, start.origin.hf_config, start) < 1e-5
    wrong = shutil.copytree(exported, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0}))
    with pytest.raises(ParityError, match=r"rewards differ by .* between transformers and Megatron, expected at most"):
        check_parity(wrong, start.origin.hf_config, start)


def test_an_output_that_failed_the_check_is_kept_under_another_name(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write(error: BaseException) -> None:
        with written_whole(out) as folder:
            (folder / "kept").touch()
            raise error

    with pytest.raises(ParityError, match=rf"What was written lies in {out}\.failed-check\."):
        write(ParityError("rewards differ."))
    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed-check"]
    assert (tmp_path / "out.failed-check" / "kept").exists()


def test_a_failed_check_ends_with_status_1() -> None:
    code = "from converters.output import *\ndef fail(terminal):\n  raise ParityError('apart')\nrun(fail)"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (1, "error: apart\n")


def test_too_little_memory_for_the_check_is_said_before_the_work() -> None:
    infos = {"x": TensorInfo((7_000_000_000_000,), torch.bfloat16)}
    with pytest.raises(
        UserError, match=r"needs 35000\.0 GB of memory \(7000\.00 B parameters in fp32\), .* --no-check"
    ):
        check_memory(SimpleNamespace(infos=infos))


def test_a_hub_model_is_taken_from_the_cache_at_its_revision(base: Path, tmp_path: Path) -> None:
    """The cache as huggingface_hub lays it out; offline, nothing else is asked."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--org--model"
    shutil.copytree(base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = (
        "import sys; from nemo_bt.origin import find_origin\n"
        "for given in sys.argv[1:]:\n"
        "  try: print(find_origin(given).path)\n"
        "  except Exception as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "org/model", f"org/model@{commit}", "org/model@v2", "org/other"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = result.stdout.splitlines()
    assert found[:2] == [str(repo / "snapshots" / commit)] * 2, result.stderr
    assert "org/model@v2 is not a path here, and not a model that the hub gives" in found[2]
    assert "org/other is not a path here, and not a model that the hub gives" in found[3]


def test_an_upload_that_fails_leaves_the_export(packed: tuple[Path, str], tmp_path: Path) -> None:
    argv = ("--input", packed[0], "--output", tmp_path / "out", "--no-check", "--push-to-hub", "org/model")
    result = convert("nemo_to_hf", *argv, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert result.returncode == 2
    assert f"The export is whole in {tmp_path / 'out'}" in result.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_labels"] == 1
