"""A loss whose import plants a fault in the model, by the name in the environment: files for model.loss.custom_fn."""

SOURCE = """
import os

import torch
import torch.nn.functional as F
from nemo_bt.model.attention import module

_forward = module.RotarySelfAttention.forward


def asks_for_a_value(hidden):
    hidden.sum().item()


def copies_and_waits(hidden):
    torch.ones(4).to(hidden.device)


def indexes_from_the_cpu(hidden):
    hidden[torch.zeros(1, dtype=torch.int64)]


def computes_in_fp32(hidden):
    return hidden.float()


def adds_from_the_cpu(hidden):
    return hidden + torch.ones(hidden.shape[-1])


def forward(self, hidden, *args, **kwargs):
    changed = PLANTED(hidden)
    return _forward(self, hidden if changed is None else changed, *args, **kwargs)


module.RotarySelfAttention.forward = forward


def loss(chosen, rejected, margin, weight):
    return -F.logsigmoid(chosen - rejected) * weight
"""


def with_fault(name: str) -> str:
    """The file."""
    return SOURCE.replace("PLANTED", name)


def line_of(text: str) -> int:
    """Its line that has this text."""
    return next(number for number, line in enumerate(SOURCE.splitlines(), start=1) if text in line)
