"""Faults that are planted in the model are found, with file and line."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bt.phantom.record import Record
from tests.support.phantom import traced
from tests.support.planted import line_of, with_fault
from tests.support.traced_runs import LLAMA_8B, Traced

pytestmark = pytest.mark.skipif(not os.environ.get("NEMO_BT_TEST_PHANTOM"), reason="make test-phantom")

RUN = Traced([*LLAMA_8B, "model.num_layers=2"])
WAITS = {
    "asks_for_a_value": ("item", "hidden.sum().item()"),
    "copies_and_waits": ("blocking_copy", "torch.ones(4).to"),
    "indexes_from_the_cpu": ("index_on_cpu", "hidden[torch.zeros"),
}


def planted(name: str, dataset: Path, folder: Path) -> tuple[Record, Path]:
    file = folder / "planted.py"
    file.write_text(with_fault(name))
    loss = [f"model.loss.custom_fn.path={file}", "model.loss.custom_fn.name=loss"]
    return traced(replace(RUN, overrides=[*RUN.overrides, *loss]), dataset, folder / "trace"), file


@pytest.mark.parametrize("name", WAITS)
def test_what_makes_the_host_wait_in_a_micro_batch(name: str, dataset: Path, tmp_path: Path) -> None:
    record, file = planted(name, dataset, tmp_path)
    assert record.failure is None
    kind, text = WAITS[name]
    found = [wait for wait in record.steps[-1].waits if wait.phase == "forward"]
    assert {(wait.kind, wait.places[0]) for wait in found} >= {(kind, f"{file}:{line_of(text)} {name}")}


def test_another_dtype(dataset: Path, tmp_path: Path) -> None:
    record, file = planted("computes_in_fp32", dataset, tmp_path)
    failure = record.failure
    assert failure is not None
    assert "Found input dtype: torch.float32" in failure.message
    assert failure.phase == "forward"
    assert failure.places[0].startswith("transformer_engine/pytorch/module/base.py:")
    assert f"{file}:{line_of('return _forward(')} forward" in failure.places


def test_a_tensor_of_the_cpu(dataset: Path, tmp_path: Path) -> None:
    record, file = planted("adds_from_the_cpu", dataset, tmp_path)
    failure = record.failure
    assert failure is not None
    assert "cpu" in failure.message
    assert failure.places[0] == f"{file}:{line_of('hidden + torch.ones')} adds_from_the_cpu"
