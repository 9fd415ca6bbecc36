"""Data sets by their id, from a real hub server on loopback: whole, at a revision, without a network, and refused."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.hub import TOKEN, Hub, env_of, serving_hub

CARD = b"---\nlicense: mit\n---\n"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def rows(answer: str) -> list[dict[str, str]]:
    return [{"prompt": f"Which drink {number}?", "chosen": answer, "rejected": "Milk."} for number in range(3)]


def jsonl(answer: str) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(answer)).encode()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows("Tea in a table.")), table)
    with serving_hub() as served:
        served.repos |= {
            "datasets/org/table": {"README.md": CARD, "data/train-00000-of-00001.parquet": table.getvalue()},
            "datasets/org/lines": {"train.jsonl": jsonl("New tea."), "test.jsonl": jsonl("Tea of a test.")},
            "datasets/org/lines@v1": {"train.jsonl": jsonl("Old tea.")},
        }
        yield served


_SHOW = """
import contextlib, io, json, sys
from nemo_bt.cli import main as cli
found = []
for source in sys.argv[2:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run(["data", "show", "--pairs", "1", f"model.data.train={source}", *sys.argv[1].split()])
    found.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def shown(
    hub: Hub, dataset: Path, folder: Path, *sources: str, token: str = TOKEN, **env: str
) -> tuple[list[list[Any]], list[str]]:
    """Status, stdout and stderr of nemo-bt data show for each source, in one process, and what the hub was asked."""
    given = f"model.data.cache_dir={folder / 'tokens'} model.tokenizer.type={dataset / 'tokenizer'}"
    before = len(hub.asked)
    result = subprocess.run(
        [sys.executable, "-c", _SHOW, given, *sources],
        env=env_of(hub, folder / "home", token) | env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), hub.asked[before:]


ANSWERS = {
    "org/table": "Tea in a table",
    "org/lines": "New tea",
    "{path: org/lines, split: test}": "Tea of a test",
    "{path: org/lines, revision: v1}": "Old tea",
}


def test_data_sets_are_fetched_once_and_stay(hub: Hub, dataset: Path, tmp_path: Path) -> None:
    found, asked = shown(hub, dataset, tmp_path, *ANSWERS)
    for (status, out, err), answer in zip(found, ANSWERS.values(), strict=True):
        assert (status, answer in out) == (0, True), out + err
    assert len([one for one in asked if one.startswith("GET /datasets/org/lines/resolve/")]) == 3  # each file once
    again, asked = shown(hub, dataset, tmp_path, *ANSWERS, **OFFLINE)
    assert [one[:2] for one in again] == [one[:2] for one in found]
    assert asked == []


def test_without_a_network_a_revision_is_never_another_one(hub: Hub, dataset: Path, tmp_path: Path) -> None:
    """`datasets` itself gives what it has made last, of whatever revision."""
    assert shown(hub, dataset, tmp_path, "org/lines")[0][0][0] == 0
    commit = hub.commit_of("datasets/org/lines@v1")
    named = [f"{{path: org/lines, revision: {revision}}}" for revision in ("v1", commit)]
    for status, _, err in shown(hub, dataset, tmp_path, *named, **OFFLINE)[0]:
        assert (status, "a data set of the hub it cannot be had at revision " in err) == (2, True), err
    assert [status for status, *_ in shown(hub, dataset, tmp_path, named[1], "org/lines")[0]] == [0, 0]
    found = shown(hub, dataset, tmp_path, named[1], "org/lines", named[0], **OFFLINE)[0]
    assert ["Old tea" in out for _, out, _ in found] == [True, False, False]
    assert [status for status, *_ in found] == [0, 0, 2]


TOLD = {
    "org/none": "cannot be had: Dataset 'org/none' doesn't exist on the Hub or cannot be accessed. Mend",
    "{path: org/lines, revision: v9}": "at revision v9: Revision 'v9' doesn't exist for dataset 'org/lines' on the Hub",
    "{path: org/lines, split: dev}": "Unknown split \"dev\". Should be one of ['train', 'test']. Mend",
    "{path: org/lines, subset: en}": "cannot be had: BuilderConfig 'en' not found. Available: ['default']. Mend",
}


def test_what_the_hub_does_not_give_is_told_in_a_line(hub: Hub, dataset: Path, tmp_path: Path) -> None:
    mend = "Mend the path, set split, subset and revision of the source, or HF_TOKEN where it is private."
    found, _ = shown(hub, dataset, tmp_path, *TOLD)
    refused, _ = shown(hub, dataset, tmp_path / "other", "org/lines", token="hf_another")
    told = [*TOLD.values(), "cannot be had: 401 Client Error: Unauthorized for url: http"]
    for (status, _, err), what in zip([*found, *refused], told, strict=True):
        assert status == 2
        last = err.splitlines()[-1]
        assert last.startswith("error: org/")
        assert what in last
        assert last.endswith(mend)
    ((status, _, err),), asked = shown(hub, dataset, tmp_path, "{path: org/lines, split: 'train[:2]'}")
    assert (status, asked) == (2, [])
    assert "org/lines: split train[:2] is a part of one. Give the whole split" in err
