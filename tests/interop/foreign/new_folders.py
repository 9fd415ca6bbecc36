"""transformers 5 saves models with what only it writes beside them. new_folders.py task.json answer.json

That is a tokenizer of a class and with a name for special tokens that are its own, and the files of a processor.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)


def save(folder, case, tokenizer):
    """Save a model with random weights, its tokenizer, and a processor around both."""
    torch.manual_seed(0)
    kind = AutoModelForSequenceClassification if case["classifier"] else AutoModelForCausalLM
    config = AutoConfig.for_model(**case["config"], **({"num_labels": 1} if case["classifier"] else {}))
    kind.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(task["tokenizer"])
    tokenizer.add_special_tokens({"extra_special_tokens": task["tokens"]})
    for folder, case in task["made"].items():
        save(folder, case, tokenizer)
    Path(sys.argv[2]).write_text("{}")


main()
