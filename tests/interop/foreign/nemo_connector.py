"""NeMo's ModelConnector opens a .nemo: every tensor of the model. nemo_connector.py task.json answer.json

The context names nemo_bt's model, which NeMo imports. Where there is no CUDA, nemo_bt puts the CPU in its place.
"""

import json
import sys
from pathlib import Path

import torch

from nemo_bt.training.nemo_import import import_nemo_here


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    import_nemo_here()
    from nemo.lightning.io.connector import ModelConnector

    model, trainer = ModelConnector().nemo_load(Path(task["nemo"]), cpu=not torch.cuda.is_available())
    tensors = {name: value for name, value in model.module.state_dict().items() if torch.is_tensor(value)}
    torch.save(tensors, task["tensors"])
    answer = {"model": type(model).__name__, "strategy": type(trainer.strategy).__name__}
    Path(sys.argv[2]).write_text(json.dumps(answer | {"words": len(model.tokenizer.tokenizer)}))


main()
