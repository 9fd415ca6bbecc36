"""What slurm/env.sh gives a job: a container where a site has set one, else the folder's virtual environment."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.runs import REPO


@pytest.mark.parametrize(
    ("set_by_site", "python"),
    [
        ("", "{folder}/.venv/bin/python"),
        ("PYTHON=(apptainer exec --nv nemo_bt.sif python3)", "apptainer exec --nv nemo_bt.sif python3"),
        ('SRUN_OPTIONS=(--container-image="$PWD/nemo_bt.sqsh")', "python3"),
    ],
)
def test_a_virtual_environment_is_taken_outside_of_containers_alone(
    tmp_path: Path, set_by_site: str, python: str
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/bin/true")
    text = (REPO / "slurm" / "env.sh").read_text()
    empty = "PYTHON=()\nSRUN_OPTIONS=()\n"
    assert empty in text
    (tmp_path / "env.sh").write_text(text.replace(empty, f"{empty}{set_by_site}\n"))
    script = 'set -euo pipefail; source ./env.sh; echo "${PYTHON[@]}"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert (done.stdout.strip(), done.stderr) == (python.format(folder=os.path.realpath(tmp_path)), "")
