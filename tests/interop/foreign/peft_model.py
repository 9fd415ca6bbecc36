"""PEFT: adapters on their base. peft_model.py task.json answer.json"""

import json
import sys
from pathlib import Path

import torch
from peft import AutoPeftModelForSequenceClassification


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    model = AutoPeftModelForSequenceClassification.from_pretrained(task["folder"], num_labels=1).float().eval()
    with torch.no_grad():
        rewards = [model(input_ids=torch.tensor([ids])).logits[0, 0].item() for ids in task["conversations"]]
    Path(sys.argv[2]).write_text(json.dumps(rewards))


main()
