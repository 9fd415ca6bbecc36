"""One of two ranks that loads models at TP2 and at PP2 and scores the same groups.

torchrun --nproc-per-node 2 -m tests.support.rank_rewards spec.json
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


def rewards(model: Any, stream: Any) -> torch.Tensor | None:
    """Rewards on the last pipeline stage: the hidden states are handed on by hand, without Megatron's schedules."""
    from megatron.core import parallel_state

    gpt, last = model.module, parallel_state.get_pipeline_model_parallel_world_size() - 1
    stage = parallel_state.get_pipeline_model_parallel_rank()
    if stage > 0:
        hidden = torch.empty(stream.tokens_1T.shape[1], 1, model.config.hidden_size)
        torch.distributed.recv(hidden, src=parallel_state.get_pipeline_model_parallel_prev_rank())
        gpt.set_input_tensor(hidden)
    out = gpt(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
    if stage < last:
        torch.distributed.send(out.contiguous(), dst=parallel_state.get_pipeline_model_parallel_next_rank())
        return None
    return out


def main() -> None:
    from nemo_bt.training.nemo_import import import_nemo

    import_nemo(on_gpu=False)
    from megatron.core import parallel_state, tensor_parallel

    from nemo_bt.batching.stream import TokenGroup, build_stream
    from nemo_bt.config.loss import LossSettings
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel
    from nemo_bt.pretrained.resolve import find_pretrained, open_weights

    spec = json.loads(Path(sys.argv[1]).read_text())
    groups = [
        TokenGroup(np.array(g["prefix"], np.int32), tuple(np.array(c, np.int32) for c in g["continuations"]))
        for g in spec["groups"]
    ]
    stream = build_stream(groups, pad_id=0, multiple_of=2)
    torch.distributed.init_process_group("gloo")
    found: dict[str, dict[str, list[float]]] = {}
    for layout, sizes in {"TP2": (2, 1), "PP2": (1, 2)}.items():
        parallel_state.initialize_model_parallel(*sizes)
        tensor_parallel.model_parallel_cuda_manual_seed(1)
        for shape, path in spec["models"].items():
            pretrained = find_pretrained(path)
            config = reward_config(pretrained.architecture, seq_length=256)
            if config.num_query_groups % sizes[0]:
                continue  # Megatron does not split a key head over ranks
            config.tensor_model_parallel_size, config.pipeline_model_parallel_size = sizes
            config.pipeline_dtype = torch.float32
            model = RewardModel(config, LossSettings())
            model.initial_weights, model._trainer = open_weights(pretrained, 0), None
            model.configure_model()
            with torch.no_grad():
                scores = rewards(model.eval(), stream)
            if scores is not None:
                found.setdefault(shape, {})[layout] = scores.tolist()
        parallel_state.destroy_model_parallel()
    if os.environ["RANK"] == "1":  # the last stage of PP2, and one of TP2
        Path(spec["out"]).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
