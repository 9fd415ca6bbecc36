"""Heads of two layers without a line of ours: INF-ORM's tensors in a folder, and rewards by AutoModel and a formula."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from tests.support.converted import replace_tensors, tensors
from tests.support.hf_models import save

INF_ORM = "INFORMForSequenceClassification"


def random_head(hidden_size: int, size: int, num_rows: int, prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(3)
    shapes = {"0.weight": (size, hidden_size), "0.bias": (size,), "2.weight": (num_rows, size), "2.bias": (num_rows,)}
    return {f"{prefix}score.{name}": 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def with_two_layers(folder: Path, shape: str, size: int = 64, num_rows: int = 1, **fields: Any) -> Path:
    """A classifier of a shape as its trainer saves it, with fields of config.json of the test's own."""
    save(shape, folder, tokenizer=fields.pop("tokenizer", None))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    replace_tensors(folder, {"score.weight": None, **random_head(config["hidden_size"], size, num_rows)})
    return folder


def hf_config_with(folder: Path, size: int) -> Any:
    """transformers' configuration of a folder, with a head of two layers and one reward."""
    config = AutoConfig.from_pretrained(folder)
    config.reward_head_hidden_size, config.num_labels = size, 1
    return config


@torch.no_grad()
def plain_rewards(folder: Path, texts: Sequence[Tensor]) -> Tensor:
    """W2 relu(W1 h + b1) + b2 at the last token of each text, h from transformers' AutoModel."""
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager").float().eval()
    model.load_state_dict(
        {name.removeprefix("model."): of for name, of in tensors(folder).items() if name.startswith("model.")}
    )
    head = {name.removeprefix("score."): of.float() for name, of in tensors(folder).items() if "score." in name}
    last = torch.stack([model(ids[None]).last_hidden_state[0, -1] for ids in texts])
    return (last @ head["0.weight"].T + head["0.bias"]).clamp(min=0) @ head["2.weight"].T + head["2.bias"]
