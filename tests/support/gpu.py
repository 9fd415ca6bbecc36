"""Where tests on a GPU run: NEMO_BT_TEST_GPU is 1, or cpu to see that they run."""

import os
from importlib.util import find_spec

import pytest
import torch

CHOSEN = os.environ.get("NEMO_BT_TEST_GPU", "")
ON_GPU = CHOSEN == "1" and torch.cuda.is_available()
HAS_ENGINE = ON_GPU and find_spec("transformer_engine") is not None
DEVICE = torch.device("cuda" if ON_GPU else "cpu")

needs_gpu = pytest.mark.skipif(not ON_GPU, reason="only a GPU computes this")
needs_engine = pytest.mark.skipif(not HAS_ENGINE, reason="needs a GPU and Transformer Engine (make gpu-setup)")
