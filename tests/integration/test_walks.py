"""The walks of CONTRIBUTING.md, made on a copy of the source: each patch fits, and does what the walk says."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import MinistralConfig, MinistralForSequenceClassification

from tests.support.runs import REPO

WALKS = dict(
    zip(
        ("loss", "family", "format"),
        re.findall(r"```diff\n(.*?)```", (REPO / "CONTRIBUTING.md").read_text(), re.S),
        strict=True,
    )
)


@pytest.fixture
def walk(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the source with the patch of a walk."""
    copy = tmp_path / "copy"
    for name in ("nemo_bt", "conf", "converters"):
        shutil.copytree(REPO / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    patch = WALKS[request.param]
    done = subprocess.run(["git", "apply", "-"], input=patch, cwd=copy, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all((copy / path).exists() for path in re.findall(r"^\+\+\+ b/(.*)$", patch, re.MULTILINE))
    return copy


def python(copy: Path, *argv: str) -> str:
    env = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, *argv], cwd=copy, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("walk", ["loss"], indirect=True)
def test_a_term_of_the_loss(walk: Path) -> None:
    code = (
        "import torch, nemo_bt\n"
        "from nemo_bt.config.load import load_settings\n"
        "from nemo_bt.loss import bradley_terry_loss\n"
        "loss = load_settings('train', ['model.loss.lead_coefficient=2']).model.loss\n"
        "chosen, rejected = torch.tensor([3.0, 1.0]), torch.tensor([0.0, 0.5])\n"
        "print(nemo_bt.__file__, *bradley_terry_loss(chosen, rejected, None, torch.ones(2), loss).tolist())\n"
    )
    path, *losses = python(walk, "-c", code).split()
    assert path == f"{walk}/nemo_bt/__init__.py"
    bare = [math.log1p(math.exp(-3.0)), math.log1p(math.exp(-0.5)) + 2 * 0.5]
    assert [float(loss) for loss in losses] == pytest.approx(bare, rel=1e-6)
    assert "model.loss.lead_coefficient = 0.0  [number, 0 or more]" in python(
        walk, "-m", "nemo_bt", "help", "settings", "lead"
    )


@pytest.mark.parametrize("walk", ["family"], indirect=True)
def test_a_family(walk: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 24}
    config = MinistralConfig(**sizes, vocab_size=256, num_labels=1, pad_token_id=0)
    MinistralForSequenceClassification(config).save_pretrained(tmp_path / "tiny")
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["model_type"] == "ministral"
    given = ["--input", str(tmp_path / "tiny"), "--output", str(tmp_path / "tiny.nemo")]
    told = python(walk, "-m", "nemo_bt", "import", *given)
    assert "reward model (ministral, Hugging Face folder), head kept" in told
    assert re.search(r"largest difference \d\.\de-\d\d, tolerance 1e-04", told)


@pytest.mark.parametrize("walk", ["format"], indirect=True)
def test_a_format_of_rows(walk: Path, tmp_path: Path) -> None:
    code = (
        "from nemo_bt.config.data import SourceSettings\n"
        "from nemo_bt.data.formats.detect import detect, parsed\n"
        "from nemo_bt.data.formats.responses import response_of\n"
        "row = {'ask': 'Tea?', 'left': 'No.', 'right': 'Gladly.', 'won': 'right'}\n"
        "keys = SourceSettings(path='rows.jsonl')\n"
        "name = detect('rows', [row], keys).name\n"
        "group = parsed(row, 0, name, keys, True)\n"
        "print(name, [response_of(group.sides[side]) for side in group.given[0].sides])\n"
    )
    assert python(walk, "-c", code) == "duel ['Gladly.', 'No.']\n"
