"""vLLM runs classifiers on the CPU: rewards of token ids. vllm_model.py task.json answer.json"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}

from vllm import LLM, PoolingParams
from vllm.distributed import cleanup_dist_env_and_memory


def rewards(folder, options, conversations):
    """The class that vLLM takes, and the reward of each list of token ids."""
    model = LLM(folder, runner="pooling", dtype="float32", enforce_eager=True, max_model_len=256, **options)
    found = model.encode(
        [{"prompt_token_ids": ids} for ids in conversations],
        pooling_params=PoolingParams(use_activation=False),
        pooling_task="classify",
        use_tqdm=False,
    )
    (name,) = model.apply_model(lambda module: type(module).__name__)
    return {"class": name, "rewards": [one.outputs.data.item() for one in found]}


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    answer = {}
    for folder, options in task["folders"].items():
        try:
            answer[folder] = rewards(folder, options, task["conversations"])
        except (AssertionError, RuntimeError, ValueError) as error:
            answer[folder] = {"refused": str(error)}
        gc.collect()
        cleanup_dist_env_and_memory()
    Path(sys.argv[2]).write_text(json.dumps(answer))


main()
