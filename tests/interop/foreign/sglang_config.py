"""SGLang reads folders: what it takes them for, without weights. sglang_config.py task.json answer.json

It imports torchvision, which has no wheel for CPUs, for pictures; empty modules stand for it.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from transformers.utils import is_torchvision_available

is_torchvision_available()  # transformers looks once
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    module = sys.modules[name] = ModuleType(name)
    module.InterpolationMode, module.__path__ = SimpleNamespace(BICUBIC=None), []
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)

from sglang.srt.configs.model_config import ModelConfig, is_generation_model  # noqa: E402
from sglang.srt.models.registry import ModelRegistry  # noqa: E402


def main():
    task = json.loads(Path(sys.argv[1]).read_text())
    answer = {}
    for folder in task["folders"]:
        architectures = ModelConfig(folder, is_embedding=True).hf_config.architectures
        model, _ = ModelRegistry.resolve_model_cls(architectures)
        answer[folder] = {"class": model.__name__, "generates": is_generation_model(architectures)}
    Path(sys.argv[2]).write_text(json.dumps(answer))


main()
