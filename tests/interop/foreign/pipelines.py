"""transformers' pipeline on texts. pipelines.py task.json answer.json"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    model = AutoModelForSequenceClassification.from_pretrained(task["folder"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(task["folder"])
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, function_to_apply="none")
    Path(sys.argv[2]).write_text(json.dumps([found["score"] for found in classify(task["texts"])]))


main()
