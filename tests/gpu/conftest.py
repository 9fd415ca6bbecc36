"""Tests on a GPU: `make test-gpu`. NEMO_BT_TEST_GPU=cpu runs what it can of them on a CPU, to see that they run."""

from pathlib import Path

import pytest

from tests.support.gpu import CHOSEN, ON_GPU


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
