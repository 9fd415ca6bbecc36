"""Files as another user sees them, and data sets of the hub without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from tests.support.preferences import GOOD
from tests.support.sources import write

UNREADABLE = """
import os, sys
import fsspec.implementations.local
from nemo_bt.data.read.files import find_files
from nemo_bt.config.data import SourceSettings
from nemo_bt.data.read.rows import first_rows
source = SourceSettings(path=sys.argv[1])
os.setuid(65534)
try:
    first_rows(find_files(source, "model.data.train")[0], None)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become a user who may not read")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "f.jsonl", [GOOD]))
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    file.chmod(0o600)
    result = subprocess.run([sys.executable, "-c", UNREADABLE, str(file)], capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("UserError"), result.stderr
    assert "f.jsonl: cannot be opened ([Errno 13] Permission denied" in result.stdout


HUB = """
import sys
from nemo_bt.data.read.files import find_files
from nemo_bt.data.read.rows import read_chunks
from nemo_bt.config.data import SourceSettings
for asked in sys.argv[1:]:
    path, split = asked.split()
    try:
        files = find_files(SourceSettings(path=path, split=split), "model.data.train")
        print(files[0].kind, [row for chunk in read_chunks(files[0], ["prompt"], None) for row in chunk.rows()])
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_an_id_of_the_hub_is_read_from_the_cache_of_datasets(tmp_path: Path) -> None:
    """The cache as `datasets` lays it out; offline, nothing else is asked."""
    file = write(tmp_path / "rows.jsonl", [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(3)])
    made = load_dataset("json", data_files={"train": file}, cache_dir=str(tmp_path / "made"))
    folder = Path(made["train"].cache_files[0]["filename"]).parent
    kept = tmp_path / "cache" / "org___prefs" / "default" / "0.0.0" / ("0" * 40)
    shutil.copytree(folder, kept)
    (kept / "json-train.arrow").rename(kept / "prefs-train.arrow")
    asked = ["org/prefs train", "org/prefs other", "org/nothing train", "org/prefs train[:2]"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, "-c", HUB, *asked], env=env, capture_output=True, text=True, timeout=60)
    found = result.stdout.splitlines()
    assert found[0] == "arrow [{'prompt': 'q0'}, {'prompt': 'q1'}, {'prompt': 'q2'}]", result.stderr
    assert found[1].startswith(
        "UserError org/prefs: no such file, and as a data set of the hub it cannot be had: Unknown"
    )
    assert found[2].startswith(
        "UserError org/nothing: no such file, and as a data set of the hub it cannot be had: Could"
    )
    assert found[3].startswith("UserError org/prefs: split train[:2] is a part of one")
