"""Recipes as they are shipped, each as one of its ranks: they fit, and the plan says so. `make test-phantom`."""

import os
from pathlib import Path

import pytest

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.plan import PlanRun
from tests.support.phantom import STEPS, Planned, traced
from tests.support.traced_runs import RECIPES

GPUS = {"one_h200_llama3_1_8b": "h200"}
"""Of the others it is an H100."""

pytestmark = pytest.mark.skipif(not os.environ.get("NEMO_BT_TEST_PHANTOM"), reason="make test-phantom")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_as_planned(name: str, dataset: Path, tmp_path: Path) -> None:
    run = RECIPES[name]
    record = traced(run, dataset, tmp_path)
    assert record.failure is None
    assert len(record.steps) == STEPS
    planned = Planned(run, dataset, tmp_path)
    assert record.steps[-1].peak == pytest.approx(planned.memory.total, rel=0.03)
    cluster = load_settings_of(PlanRun, "plan", [f"cluster={GPUS.get(name, 'h100')}"]).cluster
    assert record.peak < cluster.memory_bytes - cluster.reserved_bytes
