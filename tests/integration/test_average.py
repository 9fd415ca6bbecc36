"""nemo-bt average as users run it: its .nemo scores and trains, and a kill leaves nothing that looks whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from converters.parity import check_parity
from nemo_bt.pretrained.mean import averaged_from
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.converted import tensors
from tests.support.runs import REPO, nemo_bt, training

KILLED_AT_THE_HEAD = """
import os, signal, sys
from nemo_bt.pretrained.mean import Mean
from nemo_bt.cli.main import run
read, heads = Mean.read, []
def dies(mean, name, region=()):
    heads.extend([name] * (name == "output_layer.weight"))
    if len(heads) > 1:  # the first is read for its norm
        os.kill(os.getpid(), signal.SIGKILL)
    return read(mean, name, region)
Mean.read = dies
run(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def parts(packed: tuple[Path, str], trained: tuple[Path, str]) -> list[str]:
    """A model in bf16, and what five steps made of it in fp32."""
    return [str(packed[0]), str(trained[0] / "checkpoints" / "reward-step5.nemo"), "--dtype", "fp32"]


@pytest.fixture(scope="module")
def mean(parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("average") / "mean.nemo"
    result = nemo_bt("average", *parts, "--weights", "0.25", "0.75", "--output", str(path))
    assert (result.returncode, result.stderr) == (0, "")
    return path, result.stdout


def test_it_says_what_was_averaged(mean: tuple[Path, str]) -> None:
    path, said = mean
    assert "mean of 0.25 * base.nemo + 0.75 * reward-step5.nemo" in said
    assert "reward_statistics (mean and deviation of rewards on validation) do not carry over" in said
    assert "mean of 2, norm" in said
    assert averaged_from(find_pretrained(str(path))) == [("base.nemo", 0.25), ("reward-step5.nemo", 0.75)]


def test_the_rewards_of_the_nemo_are_those_that_transformers_computes(
    mean: tuple[Path, str], parts: list[str], tmp_path: Path
) -> None:
    result = nemo_bt("average", *parts, "--weights", "0.25", "0.75", "--output", str(tmp_path / "hf"))
    assert result.returncode == 0, result.stderr
    assert check_parity(tmp_path / "hf", open_weights(find_pretrained(str(mean[0])), 0)) < 1e-5
    result = nemo_bt("export", "--input", str(mean[0]), "--output", str(tmp_path / "exported"))
    assert result.returncode == 0, result.stderr
    ours, theirs = (tensors(tmp_path / name) for name in ("hf", "exported"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    cards = ((tmp_path / name / "README.md").read_text().partition("## Average") for name in ("hf", "exported"))
    assert {(heading, models) for _, heading, models in cards} == {
        (
            "## Average",
            "\n\nThese weights are the mean of those of other models, summed in fp32 and rounded once:\n\n"
            "| model | weight |\n|---|---|\n| `base.nemo` | 0.25 |\n| `reward-step5.nemo` | 0.75 |\n",
        )
    }


def test_training_starts_from_it(mean: tuple[Path, str], dataset: Path, tmp_path: Path) -> None:
    argv = training(dataset, tmp_path / "run", mean[0])
    result = nemo_bt(*argv, "trainer.max_steps=1", "model.global_batch_size=8", "trainer.limit_val_batches=1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{mean[0]}: reward model (qwen3, .nemo), head kept, norm" in result.stdout
    assert averaged_from(find_pretrained(str(tmp_path / "run" / "checkpoints" / "reward-step1.nemo"))) == []


@pytest.mark.parametrize("name", ["mean.nemo", "mean"])
def test_a_kill_half_way_leaves_nothing_that_looks_whole(name: str, parts: list[str], tmp_path: Path) -> None:
    argv = ["average", *parts, "--output", str(tmp_path / name)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_HEAD, *argv], cwd=REPO, env=dict(os.environ), timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f".{name}.unfinished"]
    result = nemo_bt(*argv)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mistake_ends_with_one_line_and_status_2(parts: list[str], tmp_path: Path) -> None:
    result = nemo_bt("average", *parts[:2], "--output", str(tmp_path / "mean.nemo"))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "expected torch.bfloat16 as in" in result.stderr
    assert list(tmp_path.iterdir()) == []
