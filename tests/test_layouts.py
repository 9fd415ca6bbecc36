"""Ten optimizer steps at every layout and stream budget give one rank's losses and weights."""

from pathlib import Path

import pytest

from tests.runs import full_tensors, metrics, relative_difference, run_together

STEPS = 10
TOLERANCE = 1e-5

TP2 = ["model.tensor_model_parallel_size=2"]
PP2 = ["model.pipeline_model_parallel_size=2"]
SP = ["model.sequence_parallel=true"]
ZERO = ["model.optim.name=distributed_fused_adam"]

LAYOUTS = {
    1: {"one stream": [], "one pair a stream": ["model.data.tokens_per_micro_batch=170"]},
    2: {
        "TP2": TP2,
        "PP2": PP2,
        "DP2": [],
        "TP2 SP": [*TP2, *SP],
        "DP2 distributed optimizer": ZERO,
        "PP2 small streams": [*PP2, "model.data.tokens_per_micro_batch=300"],
    },
    4: {"TP2 PP2": [*TP2, *PP2], "TP2 SP DP2 distributed optimizer": [*TP2, *SP, *ZERO]},
}


def common(dataset: Path, log_dir: Path, num_ranks: int) -> list[str]:
    return [
        f"exp_manager.explicit_log_dir={log_dir}",
        f"model.data.train={dataset / 'random.parquet'}",
        f"+model.data.validation.held_out={dataset / 'random_val.parquet'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        "model.global_batch_size=16",
        "model.data.tokens_per_micro_batch=2048",
        "model.optim.lr=1e-3",
        "model.optim.sched.warmup_steps=3",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        f"trainer.devices={num_ranks}",
        f"trainer.max_steps={STEPS}",
    ]


@pytest.fixture(scope="module")
def logs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log directories of all layouts, each started from the same initial weights."""
    folder = tmp_path_factory.mktemp("layouts")
    initial = [
        *common(dataset, folder / "initial", 1),
        "model=llama_quickstart",
        "model.num_layers=4",
        "trainer.max_steps=1",
    ]
    start = f"model.restore_from_path={folder / 'initial' / 'checkpoints' / 'reward-step1.nemo'}"
    for num_ranks, layouts in LAYOUTS.items():
        runs = [[*common(dataset, folder / name, num_ranks), start, *extra] for name, extra in layouts.items()]
        run_together(num_ranks, [initial, *runs] if num_ranks == 1 else runs, folder)
    return folder


NAMES = [name for layouts in LAYOUTS.values() for name in layouts if name != "one stream"]


@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_one_ranks(logs: Path, name: str) -> None:
    expected, found = metrics(logs / "one stream", "train/loss"), metrics(logs / name, "train/loss")
    assert len(expected) == len(found) == STEPS
    assert expected[0] != expected[-1]
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_weights_equal_one_ranks(logs: Path, name: str) -> None:
    checkpoint = Path("checkpoints") / f"reward-step{STEPS}.nemo"
    expected, found = (full_tensors(logs / layout / checkpoint) for layout in ("one stream", name))
    assert expected.keys() == found.keys()
    assert {key: relative_difference(found[key], expected[key]) for key in expected} == pytest.approx(
        dict.fromkeys(expected, 0.0), abs=TOLERANCE
    )


@pytest.mark.parametrize("name", NAMES)
def test_validation_counts_every_pair_once(logs: Path, name: str) -> None:
    for key in ("loss", "accuracy", "reward_chosen", "reward_rejected", "margin", "ties"):
        expected, found = (metrics(logs / layout, f"val/held_out/{key}") for layout in ("one stream", name))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
