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
"""Key in the config.json of an export: `digest_of` the head that it was written with."""


def digest_of(initial: InitialWeights) -> str:
    """Give 16 hexadecimal digits that change with training, and not where weights go from fp32 to bf16 or back."""
    digest = hashlib.sha256()
    for name in (name for name in HEADS if name in initial.source.infos):
        head = initial.source.read(name).to(torch.bfloat16).contiguous()
        digest.update(head.view(torch.int16).numpy().tobytes())
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
    return own is not None and own != digest_of(initial)
