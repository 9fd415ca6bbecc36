"""Folders of each transformers are the same models here, and exports are the same models in each."""

import random
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.interop.environment import ask
from tests.interop.ours import TOLERANCE, rewards_of
from tests.support.converted import to_hf, to_nemo
from tests.support.hf_models import SHAPES, hf_config_of

VERSIONS = ("transformers4", "transformers5")
NUMBERS = {shape: f"shape{number}" for number, shape in enumerate(SHAPES)}
CONVERSATIONS = [random.Random(length).choices(range(4, 340), k=length) for length in (3, 40, 70)]


@pytest.fixture(scope="session", params=VERSIONS)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, dataset: Path
) -> tuple[Path, dict[str, list[float]]]:
    """Every shape, built and saved by one version, and its rewards there."""
    folder = tmp_path_factory.mktemp(request.param)
    made = {str(folder / number): hf_config_of(shape) for shape, number in NUMBERS.items()}
    task = {"made": made, "tokenizer": str(dataset / "tokenizer"), "folders": [*made], "conversations": CONVERSATIONS}
    return folder, ask(request.param, "classifiers", task, folder)["rewards"]


@pytest.fixture(scope="session")
def exported(saved: tuple[Path, dict[str, list[float]]]) -> dict[str, Path]:
    """Every shape, from the folder to a .nemo and back."""
    folder, _ = saved
    found = {}
    for number in NUMBERS.values():
        pretrained = find_pretrained(str(folder / number))
        nemo = to_nemo(pretrained, open_weights(pretrained, head_seed=0), folder / f"{number}.nemo")
        again = find_pretrained(str(nemo))
        found[number] = to_hf(open_weights(again, head_seed=0), folder / f"{number}-exported")
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_either_version_has_its_rewards_here(
    saved: tuple[Path, dict[str, list[float]]], shape: str, record_property: Any, request: pytest.FixtureRequest
) -> None:
    version = request.node.callspec.params["saved"]
    record_property("program", f"transformers | {version}:transformers | saves a folder, which has its rewards here")
    folder, rewards = saved
    path = folder / NUMBERS[shape]
    assert rewards_of(path, CONVERSATIONS) == pytest.approx(rewards[str(path)], abs=TOLERANCE)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_export_has_the_same_rewards_in_either_version(
    saved: tuple[Path, dict[str, list[float]]],
    exported: dict[str, Path],
    version: str,
    record_property: Any,
    request: pytest.FixtureRequest,
) -> None:
    by = request.node.callspec.params["saved"]
    what = f"loads exports of what {by} saved, with their rewards ({len(SHAPES)} shapes)"
    record_property("program", f"transformers | {version}:transformers | {what}")
    folder, rewards = saved
    task = {"folders": [str(path) for path in exported.values()], "conversations": CONVERSATIONS}
    found = ask(version, "classifiers", task, folder)["rewards"]
    for number, path in exported.items():
        assert found[str(path)] == pytest.approx(rewards[str(folder / number)], abs=TOLERANCE), number
