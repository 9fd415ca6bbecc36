"""Average models as `nemo-bt average` does, in this process; models to average, without NeMo."""

import shutil
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from converters import average
from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.adapters import Adapters, digest, trained_shapes
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.resolve import PretrainedSource, find_pretrained, open_weights
from nemo_bt.pretrained.torch_dist_writer import write_torch_dist
from tests.support.converted import to_nemo
from tests.support.tensors import Tensors


def averaged(*argv: Any) -> str:
    """Run the command, and give what it says."""
    said = StringIO()
    average.convert(average.parse(list(map(str, argv))), Terminal(said))
    return said.getvalue()


def as_nemo(hf: Path, target: Path, *overrides: str, validation: dict[str, float] | None = None) -> Path:
    """A folder's model as a .nemo with its tokenizer; with overrides or a validation as a run of these leaves it."""
    pretrained = find_pretrained(str(hf))
    to_nemo(pretrained, open_weights(pretrained, 0), target)
    shutil.copytree(hf, target / "context" / "tokenizer", ignore=shutil.ignore_patterns("model*", "config.json"))
    if overrides or validation:
        settings = load_settings("train", ["model=llama_4x256", "model.data.train=a.jsonl", *overrides])
        facts = {"step": 1, "validation": validation or {}, "settings": asdict(settings)}
        write_facts(target / "context", pretrained.hf_config, facts)
    return target


def as_adapters(
    base: Path, target: Path, seed: int, adapter_dim: int = 4, pretrained: PretrainedSource | None = None
) -> Path:
    """A checkpoint of random adapters, and a head, on a folder's model; `pretrained` is one with a head asked for."""
    pretrained = pretrained or find_pretrained(str(base))
    source = open_weights(pretrained, 0).source
    modules = ("linear_qkv", "linear_fc2")
    torch.manual_seed(seed)
    shapes = trained_shapes(source.infos, modules, adapter_dim)
    trained = Tensors({name: 0.3 * torch.randn(shape) for name, shape in shapes.items()})
    write_torch_dist(target / "weights", trained, lambda name: int(".adapter." in name), lambda _: None)
    shutil.copytree(base, target / "context" / "tokenizer", ignore=shutil.ignore_patterns("model*", "config.json"))
    write_facts(target / "context", pretrained.hf_config, {})
    Adapters(str(base), modules, adapter_dim, 8.0, digest(source)).write(target / "context")
    return target
