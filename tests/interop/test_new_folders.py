"""Folders that transformers 5 saves, with what only it writes, are trained here; both versions load what comes out."""

from pathlib import Path
from typing import Any

import pytest

from tests.interop.environment import ask
from tests.interop.ours import CONVERSATIONS, TOLERANCE, rewards_of
from tests.support.hf_models import hf_config_of
from tests.support.layouts import checkpoint
from tests.support.preferences import messages
from tests.support.runs import convert, nemo_bt, training

CASES = {"llama3.1, head size": True, "gemma3": False, "qwen3 moe": False}
"""Shape -> whether it is saved as a classifier; else as a language model."""
TOKENS = ["<|turn|>", "<|image|>"]


@pytest.fixture(scope="module")
def saved(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    folders = {shape: folder / f"model{number}" for number, shape in enumerate(CASES)}
    made = {str(folders[shape]): {"classifier": CASES[shape], "config": hf_config_of(shape)} for shape in CASES}
    task = {"tokenizer": str(dataset / "tokenizer"), "tokens": TOKENS, "made": made}
    ask("transformers5", "new_folders", task, folder)
    return folders


@pytest.mark.parametrize("shape", CASES)
def test_a_folder_of_transformers_5_is_trained_and_goes_back(
    saved: dict[str, Path], shape: str, dataset: Path, tmp_path: Path, record_property: Any
) -> None:
    what = "saves a folder with its tokenizer and a processor; two steps are trained here"
    record_property("program", f"transformers | transformers5:transformers | {what}, and it loads the export")
    record_property(
        "program", "transformers | transformers4:transformers | loads what was trained from transformers5's"
    )
    kinds = ("tokenizer_config.json", "processor_config.json")
    assert all((saved[shape] / name).is_file() for name in kinds)
    assert "TokenizersBackend" in (saved[shape] / kinds[0]).read_text()
    result = nemo_bt(*training(dataset, tmp_path / "run", saved[shape]), "trainer.max_steps=2")
    assert result.returncode == 0, result.stdout + result.stderr
    trained = checkpoint(tmp_path / "run", 2)
    exported = tmp_path / "exported"
    result = convert("nemo_to_hf", "--input", trained, "--output", exported)
    assert result.returncode == 0, result.stderr
    expected = rewards_of(trained, CONVERSATIONS)
    if CASES[shape]:
        assert rewards_of(saved[shape], CONVERSATIONS) != pytest.approx(expected, abs=1e-3)
    for version in ("transformers4", "transformers5"):
        found = ask(version, "classifiers", {"folders": [str(exported)], "conversations": CONVERSATIONS}, tmp_path)
        assert found["rewards"][str(exported)] == pytest.approx(expected, abs=TOLERANCE), version
    dialogs = [messages(f"Tea {TOKENS[0]}?", f"{TOKENS[1]} Yes."), messages("Milk?", "No.")]
    texts = [f"user: {asked['content']}<|end|>assistant: {said['content']}<|end|>" for asked, said in dialogs]
    for version in ("transformers4", "transformers5"):
        found = ask(version, "pipelines", {"folder": str(exported), "texts": texts}, tmp_path)
        assert found == pytest.approx(rewards_of(trained, dialogs), abs=TOLERANCE), version
