"""A mixture with four responses a prompt trains alike at every layout and stream budget, and as transformers says.

One source gives a drawn half of its pairs, the other all pairs of its responses, at half the weight.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.config.load import load_settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.observability.terminal import Terminal
from tests.support.launches import Logs
from tests.support.layouts import SMALL_LLAMA, TOLERANCE, TP2, checkpoint, common
from tests.support.reference import hf_model_of, padded_rewards, whole_sequences
from tests.support.runs import Run, full_tensors, metrics, relative_difference
from tests.support.sources import write

LAYOUTS = {
    1: {"mixed": [], "small streams": ["model.data.tokens_per_micro_batch=200"]},
    2: {"DP2": [], "TP2": TP2},
}
STEPS = 4


def mixture(dataset: Path, folder: Path) -> str:
    words = ["tea", "some milk", "rice and soup", "a plum"]
    rows = [
        {"prompt": f"What of {i}?", "completions": [f"{word} {i}" for word in words], "scores": [4, 3, 2, 1]}
        for i in range(30)
    ]
    ranked = write(folder / "ranked.jsonl", rows)
    drawn = f"{{path: {dataset / 'random.parquet'}, fraction: 0.5}}"
    return f"model.data.train=[{drawn}, {{path: {ranked}, pairs: {{mode: all_pairs}}, weight: 0.5}}]"


def planned_runs(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    """Layouts, and a resumed run."""
    plan = {}
    train = mixture(dataset, folder)
    start = f"model.restore_from_path={checkpoint(folder / 'initial', 1)}"
    save = "exp_manager.checkpoint_callback_params.every_n_train_steps=2"
    for num_ranks, layouts in LAYOUTS.items():
        runs = (
            [Run([*common(dataset, folder / "initial", 1), *SMALL_LLAMA, "trainer.max_steps=1"])]
            if num_ranks == 1
            else []
        )
        for name, extra in layouts.items():
            overrides = [*common(dataset, folder / name, num_ranks), start, train, *extra, save]
            runs.append(Run([*overrides, f"trainer.max_steps={STEPS}"]))
        if num_ranks == 2:
            overrides = [*common(dataset, folder / "resumed", 2), start, train, "exp_manager.resume_if_exists=true"]
            runs.append(Run([*overrides, f"trainer.max_steps={STEPS}"], checkpoint(folder / "DP2", 2)))
        plan[num_ranks] = runs
    return plan


@pytest.mark.parametrize("name", [name for names in LAYOUTS.values() for name in names if name != "mixed"])
@pytest.mark.runs("mixed")
def test_losses_sources_and_weights_equal_one_ranks(logs: Logs, name: str) -> None:
    for key in ("loss", "grad_norm", "source/random/loss", "source/ranked/loss", "source/ranked/pairs"):
        found, expected = (metrics(logs / log_dir, f"train/{key}") for log_dir in (name, "mixed"))
        assert len(expected) >= STEPS - 1  # a step may have no pair of one source
        assert found == pytest.approx(expected, rel=TOLERANCE)
    expected, found = (full_tensors(checkpoint(logs / log_dir, STEPS)) for log_dir in ("mixed", name))
    assert max(relative_difference(found[key], expected[key]) for key in expected) < TOLERANCE


@pytest.mark.runs("resumed")
def test_a_resumed_mixture_visits_the_same_pairs(logs: Logs) -> None:
    for key in ("loss", "grad_norm", "source/ranked/loss", "source/ranked/pairs"):
        assert metrics(logs / "resumed", f"train/{key}") == metrics(logs / "DP2", f"train/{key}")[2:]


@pytest.mark.runs("initial", "mixed")
def test_the_first_loss_is_transformers(logs: Logs, dataset: Path, tokenizer: Any) -> None:
    overrides = [*common(dataset, logs.folder, 1), "model=llama_quickstart", mixture(dataset, logs.folder)]
    settings = load_settings("train", overrides)
    train = load_sets(settings, tokenizer, False, Terminal(None))["train"]
    assert len(train.epoch) == 50 + 6 * 30
    numbers = pairs_of_step(1234, 0, 16, train.epoch)
    with torch.no_grad():
        rewards = padded_rewards(hf_model_of(logs / "initial", 1), whole_sequences(train, numbers))
    weights = torch.tensor([0.5 if number >= 100 else 1.0 for number in numbers])
    losses = -torch.nn.functional.logsigmoid(rewards[0::2] - rewards[1::2]) * weights
    assert metrics(logs / "mixed", "train/loss")[0] == pytest.approx(losses.mean().item(), abs=1e-5)
    num_ranked = int((weights == 0.5).sum())
    assert 0 < num_ranked < 16
    assert metrics(logs / "mixed", "train/source/ranked/pairs")[0] == num_ranked
    assert metrics(logs / "mixed", "train/source/ranked/loss")[0] == pytest.approx(
        losses[weights == 0.5].mean().item(), abs=1e-5
    )
