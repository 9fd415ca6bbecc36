"""Activations round alike at every call of a process: the first step after a resume is one of those in between."""

import subprocess
import sys

CALLS = """
from nemo_bt.training.nemo_import import import_nemo
import_nemo(on_gpu=False)
import torch
from nemo_bt.model.config import _ACTIVATIONS

at, upstream = torch.randn(700, 1, 512), torch.randn(700, 1, 512)
def gradient(activation):
    x = at.clone().requires_grad_()
    activation(x).backward(upstream)
    return x.grad
for name, activation in _ACTIVATIONS.items():
    found = [gradient(activation) for _ in range(4)]
    print("activation", name, all(torch.equal(found[0], other) for other in found))
"""


def test_the_first_backward_pass_of_a_process_is_as_all_others() -> None:
    result = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=200)
    lines = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("activation ")]
    assert dict(lines) == dict.fromkeys(("silu", "gelu", "gelu_pytorch_tanh", "relu2"), "True"), result.stderr[-2000:]
