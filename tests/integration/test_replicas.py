"""A bit that changes on one rank of a real run is found within n steps, and the rank is named."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.checkpoint.find import saved_checkpoints, step_of
from nemo_bt.observability.events import read_events
from tests.support.layouts import SP, TP2, ZERO, common
from tests.support.runs import free_port, metrics, torchrun

MODEL = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160", "trainer.limit_val_batches=0"]
N, FLIPPED_AT, STEPS = 4, 3, 9
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "DP2": (2, []),
    "DP2 distributed optimizer": (2, ZERO),
    "DP2 bf16": (2, ["trainer.precision=bf16-mixed"]),
    "TP2 SP": (2, [*TP2, *SP]),
    "DP4": (4, []),
    "TP2 SP DP2": (4, [*TP2, *SP]),
}
LINEAR, NORM = "layers.0.mlp.linear_fc2.weight", "layers.1.mlp.linear_fc1.layer_norm_weight"


def flip(rank: int, what: str, name: str, to_step: int = FLIPPED_AT) -> dict[str, Any]:
    return {"rank": rank, "what": what, "name": name, "from_step": FLIPPED_AT, "to_step": to_step}


FLIPS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "DP2 weight": ("DP2", flip(1, "weight", LINEAR), [0, 1]),
    "DP2 moment": ("DP2", flip(1, "exp_avg_sq", LINEAR), [0, 1]),
    # Weights are gathered anew in each step: what lasts is a bit that cannot be written.
    "DP2 stuck bit": ("DP2 distributed optimizer", flip(1, "weight", LINEAR, STEPS), [0, 1]),
    "DP2 bf16 moment": ("DP2 bf16", flip(0, "exp_avg", LINEAR), [0, 1]),
    "TP2 norm": ("TP2 SP", flip(1, "weight", NORM), [0, 1]),
    "DP4 weight": ("DP4", flip(2, "weight", LINEAR), [2]),
    "DP4 moment": ("DP4", flip(3, "exp_avg", NORM), [3]),
    "DP4 gradient": ("DP4", flip(1, "gradient", LINEAR), [1]),
    "TP2 DP2 norm": ("TP2 SP DP2", flip(3, "weight", NORM), [3]),
    "TP2 DP2 moment": ("TP2 SP DP2", flip(1, "exp_avg_sq", LINEAR), [1, 3]),
}
"""Name -> layout, flip, and the ranks that are named: of two that differ both, of more the one."""


@pytest.fixture(scope="module")
def ended(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str | None]]:
    """The folder of the runs' log directories, and the message that each ended with."""
    folder = tmp_path_factory.mktemp("replicas")
    runs: dict[int, list[dict[str, Any]]] = {2: [], 4: []}

    def plan(name: str, layout: str, every_n_steps: int, flipped: dict[str, Any] | None = None) -> None:
        num_ranks, extra = LAYOUTS[layout]
        overrides = [*common(dataset, folder / name, num_ranks), *MODEL, *extra, f"trainer.max_steps={STEPS}"]
        overrides += [f"trainer.compare_replicas_every_n_steps={every_n_steps}"]
        overrides += ["exp_manager.checkpoint_callback_params.every_n_train_steps=2"]
        runs[num_ranks].append({"port": free_port(), "overrides": overrides, "flip": flipped})

    for layout in LAYOUTS:
        plan(layout, layout, N)
        plan(f"{layout} off", layout, 0)
    for name, (layout, flipped, _) in FLIPS.items():
        plan(name, layout, N, flipped)
    for num_ranks, some in runs.items():
        spec = folder / f"runs-{num_ranks}.json"
        spec.write_text(json.dumps(some))
        result = torchrun(num_ranks, "tests.support.flipping_ranks", spec, timeout_s=500)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder, dict(json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_undisturbed_run_has_no_finding_and_the_same_losses(
    ended: tuple[Path, dict[str, str | None]], layout: str
) -> None:
    folder, messages = ended
    assert messages[layout] is messages[f"{layout} off"] is None
    assert len(metrics(folder / layout, "train/loss")) == STEPS
    for key in ("train/loss", "train/grad_norm"):
        assert metrics(folder / layout, key) == metrics(folder / f"{layout} off", key)


@pytest.mark.parametrize("name", FLIPS)
def test_a_flipped_bit_is_found_within_n_steps_and_the_rank_is_named(
    ended: tuple[Path, dict[str, str | None]], name: str
) -> None:
    folder, messages = ended
    message = messages[name]
    assert message is not None
    (event,) = (event for event in read_events(folder / name) if event["event"] == "differs")
    assert event["ranks"] == FLIPS[name][2]
    assert FLIPPED_AT <= event["step"] <= FLIPPED_AT + N
    assert any(tensor.endswith(FLIPS[name][1]["name"]) for tensor in event["tensors"])
    for rank in event["ranks"]:
        assert f"{rank} (node {socket.gethostname()})" in message
    assert ("it is not known which of them is wrong" in message) == (len(event["ranks"]) == 2)
    failed = [event for event in read_events(folder / name) if event["event"] == "failed"]
    assert failed[0]["error"] == message


@pytest.mark.parametrize("name", FLIPS)
def test_only_checkpoints_from_before_can_be_resumed(ended: tuple[Path, dict[str, str | None]], name: str) -> None:
    folder, messages = ended
    (event,) = (event for event in read_events(folder / name) if event["event"] == "differs")
    assert event["alike_at"] == max(0, event["step"] - N)
    left = [step_of(path) for path in saved_checkpoints(folder / name / "checkpoints")]
    assert all(step <= event["alike_at"] <= FLIPPED_AT for step in left)
    aside = sorted(path.name for path in (folder / name / "checkpoints").glob("*.damaged"))
    assert aside == sorted(event["set_aside"])
    assert len(aside) == len(range(2, event["step"] + 1, 2)) - len(left)
    assert all(path in str(messages[name]) for path in aside)
