"""NeMo's import puts packages off, and each of them is whole when something asks for it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from nemo_bt.foreign.put_off import PUT_OFF

PROGRAM = """
import contextlib, json, sys, tempfile
from pathlib import Path
from types import ModuleType
import torch
import nemo_bt.training.nemo_import as nemo_import
from nemo_bt.foreign.put_off import PUT_OFF, is_put_off

if sys.argv[1] == "plain":
    nemo_import.put_off = contextlib.nullcontext
nemo_import.import_nemo(on_gpu=False)
with nemo_import.put_off():
    import nemo.collections.llm.gpt.model.llama
num_modules = len(sys.modules)
states = {name: is_put_off(name) for name in PUT_OFF}
asked = []
if sys.argv[1] != "plain":
    from nemo.collections.llm.modelopt.model_utils import restore_modelopt_state, save_modelopt_state
    model, folder = torch.nn.Linear(1, 1), Path(tempfile.mkdtemp())
    for make in (folder, folder / "weights" / "modelopt_state"):
        make.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Exception):  # there is no state in it
            asked.append(restore_modelopt_state(model, folder))
            asked.append(save_modelopt_state(model, folder, None))
        asked.append(is_put_off("modelopt.torch.opt"))
names = {}
for name in PUT_OFF:
    module = __import__(name, fromlist=["x"])
    getattr(module, "loads it", None)
    names[name] = sorted(key for key, value in vars(module).items() if not isinstance(value, ModuleType))
import lightning.pytorch.core.module as lightning_module
import torchmetrics, transformers.generation.candidate_generator as generator
from sklearn.metrics import roc_curve

same = [getattr(torchmetrics, name) is getattr(lightning_module, name) for name in ("Metric", "MetricCollection")]
taken, own = (list(map(list, curve([0, 1], [0.1, 0.9]))) for curve in (generator.roc_curve, roc_curve))
print(json.dumps([num_modules, states, names, [*same, taken == own], asked]))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What each kind of import gave: number of modules, what was put off, the names of packages, comparisons."""
    running = {
        kind: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for kind in ("put off", "plain")
    }  # fmt: skip
    ended = {kind: (process, *process.communicate(timeout=200)) for kind, process in running.items()}
    for process, _, stderr in ended.values():
        assert process.returncode == 0, stderr
    return {kind: json.loads(stdout.splitlines()[-1]) for kind, (_, stdout, _) in ended.items()}


def test_every_package_stays_put_off(found: dict[str, Any]) -> None:
    assert found["put off"][1] == dict.fromkeys(PUT_OFF, True)
    assert found["plain"][1] == dict.fromkeys(PUT_OFF, False)
    assert found["put off"][0] < 0.65 * found["plain"][0]


@pytest.mark.parametrize("name", PUT_OFF)
def test_a_package_that_is_asked_is_whole(found: dict[str, Any], name: str) -> None:
    assert found["put off"][2][name] == found["plain"][2][name]


def test_modelopt_runs_where_its_state_is_on_the_disk(found: dict[str, Any]) -> None:
    """Without it NeMo's two functions give nothing, and load nothing; with it they are NeMo's own."""
    without, with_state = found["put off"][4][:3], found["put off"][4][3:]
    assert without == [None, None, True]
    assert with_state[-1] is False


def test_what_others_took_of_it_is_its_own(found: dict[str, Any]) -> None:
    assert found["put off"][3] == found["plain"][3] == [True, True, True]
