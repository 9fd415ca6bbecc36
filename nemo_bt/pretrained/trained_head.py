"""Whether a model is still the one that its config.json tells of: who trains on keeps what stands there.

transformers and TRL write every field of config.json again, `text_settings` and `reward_statistics` of an export too.
"""

from __future__ import annotations

import hashlib

import torch

from nemo_bt.pretrained.names import HEADS
from nemo_bt.pretrained.nemo_metadata import read_facts
from nemo_bt.pretrained.resolve import InitialWeights

TRAINED_HEAD = "trained_head"
"""Key in the config.json of an export: `digests_of` the head that it was written with."""
_ROUNDED: tuple[tuple[torch.dtype, ...], ...] = ((), (torch.float16,), (torch.bfloat16, torch.float16))
"""Dtypes that weights may go through before they are rounded to bf16 here."""


def digests_of(initial: InitialWeights) -> str:
    """Give digests that all change with training; one of them stays where weights go through fp32, bf16 and fp16."""
    return " ".join(dict.fromkeys(_digest(initial, through) for through in _ROUNDED))


def _digest(initial: InitialWeights, through: tuple[torch.dtype, ...] = ()) -> str:
    digest = hashlib.sha256()
    for name in (name for name in HEADS if name in initial.source.infos):
        head = initial.source.read(name)
        for dtype in (*through, torch.bfloat16):
            head = head.to(dtype)
        digest.update(head.contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def was_trained_on(initial: InitialWeights) -> bool:
    """Tell whether what config.json says of a training is of an earlier one; an export of an old version cannot tell.

    PEFT's adapters are of a later one than their base. A training of our own has its facts beside the weights.
    """
    pretrained = initial.pretrained
    if pretrained.nemo_file and read_facts(pretrained.nemo_file.context):
        return False
    if pretrained.base and not pretrained.nemo_file:
        return True
    own = pretrained.hf_config.get(TRAINED_HEAD)
    return own is not None and _digest(initial) not in str(own).split()
