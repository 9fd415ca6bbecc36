"""What slurm/env.sh gives a job: a container where a site has set one, else the folder's virtual environment."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.runs import REPO

APPTAINER = "apptainer exec --nv --no-home --pwd {folder} --bind {folder},/data nemo_bt.sif python3"
PYXIS = (
    "--container-image={folder}/nemo_bt.sqsh --container-mounts={folder}:{folder},/data:/data "
    "--container-workdir={folder} --no-container-mount-home"
)


@pytest.mark.parametrize(
    ("uncommented", "python", "options"),
    [("", "{folder}/.venv/bin/python", ""), ("PYTHON=", APPTAINER, ""), ("SRUN_OPTIONS", "python3", PYXIS)],
)
def test_an_example_that_is_uncommented_where_it_stands_is_taken(
    tmp_path: Path, uncommented: str, python: str, options: str
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/bin/true")
    text = (REPO / "slurm" / "env.sh").read_text()
    if uncommented:
        text = re.sub(rf"^#   (?={uncommented})", "", text, flags=re.MULTILINE)
    (tmp_path / "env.sh").write_text(text)
    script = 'set -euo pipefail; source ./env.sh; echo "${PYTHON[@]}"; echo "${SRUN_OPTIONS[@]}"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    folder = os.path.realpath(tmp_path)
    expected = [line.format(folder=folder) for line in (python, options)]
    assert (done.stdout.split("\n")[:2], done.stderr) == (expected, "")
