"""What unit tests are kept from."""

import sys
from collections.abc import Iterator

import pytest

SLOW = {"nemo", "megatron", "lightning"}


@pytest.fixture(autouse=True, scope="module")
def _imports_no_nemo() -> Iterator[None]:
    """Unit tests import neither NeMo nor Megatron; another test of the process may have."""
    before = SLOW & sys.modules.keys()
    yield
    assert SLOW & sys.modules.keys() == before, "a test that imports NeMo or Megatron belongs to tests/integration"
