"""Tests on a GPU: `make test-gpu`. NEMO_BT_TEST_GPU=cpu runs what it can of them on a CPU, to see that they run."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

CHOSEN = os.environ.get("NEMO_BT_TEST_GPU", "")
ON_GPU = CHOSEN == "1" and torch.cuda.is_available()
HAS_ENGINE = ON_GPU and find_spec("transformer_engine") is not None
DEVICE = torch.device("cuda" if ON_GPU else "cpu")

needs_gpu = pytest.mark.skipif(not ON_GPU, reason="only a GPU computes this")
needs_engine = pytest.mark.skipif(not HAS_ENGINE, reason="needs a GPU and Transformer Engine (make gpu-setup)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They are their own command: what makes Megatron run on a CPU, in other tests, stays in a process."""
    reason = "needs a GPU: make test-gpu" if CHOSEN == "" else "this machine has no GPU"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not (ON_GPU or CHOSEN == "cpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def nemo() -> None:
    """NeMo for this device."""
    from nemo_bt.training.nemo_import import import_nemo

    import_nemo(ON_GPU)
