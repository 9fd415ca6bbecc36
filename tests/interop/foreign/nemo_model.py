"""NeMo's own Qwen3Model, with weights that Megatron loads: rewards of token ids. nemo_model.py task.json answer.json

Megatron asks CUDA for its device in rotary_pos_embedding.py:164; the CPU answers where there is no CUDA.
"""

import json
import sys
from pathlib import Path

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker
from nemo.collections import llm

if not torch.cuda.is_available():
    torch.cuda.current_device = lambda: torch.device("cpu")
HEAD = "module.output_layer.weight"


def built(fields):
    """NeMo's model, built on this device."""
    model = llm.Qwen3Model(llm.Qwen3Config(**fields, transformer_layer_spec=llm.gpt.model.base.local_layer_spec))
    model.configure_model()
    return model.module.float().eval()


def load(module, weights):
    """Load all but the head, which has a row for each word there and one row here, and give the one row."""
    sharded = module.sharded_state_dict(prefix="module.")
    trunk = {name: value for name, value in sharded.items() if name != HEAD and not name.endswith("_extra_state")}
    loaded = dist_checkpointing.load(trunk, weights, strict="raise_unexpected")
    result = module.load_state_dict({name.removeprefix("module."): loaded[name] for name in trunk}, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["output_layer.weight"], []), result
    return dist_checkpointing.load_plain_tensors(weights)[HEAD]


def rewards(module, head, conversations):
    """Hidden state of the last token times the head."""
    found = []
    module.output_layer.register_forward_pre_hook(lambda _, given: found.append(given[0][-1, 0] @ head[0]))
    with torch.no_grad():
        for ids in conversations:
            tokens = torch.tensor([ids])
            mask = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool).triu(1)
            module(tokens, torch.arange(len(ids))[None], mask)
    return [reward.item() for reward in found]


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    initialize_rng_tracker(inference_rng_tracker=True)
    module = built(task["fields"])
    head = load(module, task["weights"])
    ours = [name for name in sys.modules if name.startswith("nemo_bt.")]
    answer = {"rewards": rewards(module, head, task["conversations"]), "ours": ours}
    Path(sys.argv[2]).write_text(json.dumps(answer))


main()
