"""A real hub server on loopback: exports go up whole or not at all, and come down as what they were."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.hub import TOKEN, Hub, env_of, serving_hub
from tests.support.runs import REPO

_PUSH = """
import json, pathlib, sys
from converters.hub import check_upload, push
from nemo_bt.errors import UserError
folder, *repos = sys.argv[1:]
found = {}
for repo in repos:
    try:
        check_upload(repo)
        found[repo] = push(pathlib.Path(folder), repo, False)
    except UserError as error:
        found[repo] = f"UserError {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving_hub() as served:
        yield served


def pushed(hub: Hub, home: Path, folder: Path, *repos: str, token: str = TOKEN) -> dict[str, str]:
    argv = [sys.executable, "-c", _PUSH, str(folder), *repos]
    result = subprocess.run(
        argv, env=env_of(hub, home, token), cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def uploaded(hub: Hub, packed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of an export that was uploaded, and what the command said."""
    folder = tmp_path_factory.mktemp("hub")
    argv = [sys.executable, "-m", "nemo_bt", "export", "--input", str(packed[0]), "--output", str(folder / "export")]
    result = subprocess.run(
        [*argv, "--push-to-hub", "org/reward"],
        env=env_of(hub, folder / "home"), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "export", result.stdout


def test_an_export_goes_up_file_by_file(hub: Hub, uploaded: tuple[Path, str]) -> None:
    folder, said = uploaded
    assert hub.repos["org/reward"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert f"uploaded to {hub.address}/org/reward/commit/{hub.commit_of('org/reward')}" in said
    card = hub.repos["org/reward"]["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-classification"


def test_it_comes_down_as_it_was_and_stays_for_nodes_without_a_network(
    hub: Hub, uploaded: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "tea"}) + "\n")
    given = ["model.restore_from_path=org/reward", f"score.input={tmp_path / 'rows.jsonl'}"]
    given += [f"score.output={tmp_path / 'scored.jsonl'}"]
    env = env_of(hub, tmp_path / "home")
    fetch = [sys.executable, "-m", "nemo_bt", "fetch", "--for", "score", *given]
    result = subprocess.run(fetch, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    commit = hub.commit_of("org/reward")
    assert f"model.restore_from_path=org/reward@{commit}" in result.stdout
    (snapshot,) = (tmp_path / "home" / "hub" / "models--org--reward" / "snapshots").iterdir()
    for path in snapshot.iterdir():
        assert path.read_bytes() == (uploaded[0] / path.name).read_bytes()
    asked = len(hub.asked)
    given[0] = f"model.restore_from_path=org/reward@{commit}"
    score = [sys.executable, "-m", "nemo_bt", "score", *given, "trainer.accelerator=cpu"]
    offline = env | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(score, env=offline, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert isinstance(json.loads((tmp_path / "scored.jsonl").read_text())["reward"], float)
    assert len(hub.asked) == asked


def test_a_hub_that_refuses_leaves_the_export_and_says_why(
    hub: Hub, uploaded: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = uploaded
    hub.fails |= {"org/no-right": ("create", 403), "org/broken": ("upload", 403), "org/moved-on": ("commit", 412)}
    hub.repos["org/there"] = {"kept.txt": b"of before"}
    found = pushed(hub, tmp_path, folder, "org/no-right", "org/broken", "org/moved-on", "org/there")
    for repo in ("org/no-right", "org/broken", "org/moved-on"):
        assert found[repo].startswith(f"UserError --push-to-hub {repo} failed: "), found[repo]
        assert f"The export is whole in {folder}; upload it from there." in found[repo]
        assert not hub.repos.get(repo)
    assert found["org/there"].startswith(hub.address)
    assert hub.repos["org/there"].keys() == {"kept.txt", *hub.repos["org/reward"]}
    refused = pushed(hub, tmp_path, folder, "org/reward", token="hf_another")["org/reward"]
    assert refused.startswith("UserError --push-to-hub org/reward: ")
    assert refused.endswith("Nothing was converted.")
