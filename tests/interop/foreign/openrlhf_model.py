"""OpenRLHF's loader of reward models: rewards of token ids. openrlhf_model.py task.json answer.json

It imports flash_attn for packed samples, which has no wheel for CPUs; an empty module stands for it.
"""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torch

for name in ("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed"):
    module = sys.modules[name] = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for function in ("index_first_axis", "pad_input", "rearrange", "unpad_input", "all_gather"):
        setattr(module, function, None)

from openrlhf.models import get_llm_for_sequence_regression  # noqa: E402


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    model = get_llm_for_sequence_regression(task["folder"], "reward", attn_implementation="eager").float().eval()
    with torch.no_grad():
        ids = [torch.tensor([one]) for one in task["conversations"]]
        rewards = [model(one, torch.ones_like(one)).item() for one in ids]
    Path(sys.argv[2]).write_text(json.dumps(rewards))


main()
