"""Heads of two layers: which folder has one, and what our own class and INF-ORM's are called.

score = Linear(hidden_size, size), ReLU, Linear(size, rewards), both with bias.
Source: https://huggingface.co/infly/INF-ORM-Llama3.1-70B, "Modified Score Head".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nemo_bt.pretrained.hf_config import HEAD_HIDDEN_SIZE, HfConfig
from nemo_bt.pretrained.names import HIDDEN_WEIGHT, TWO_LAYER_HEAD
from nemo_bt.pretrained.safetensors_folder import WEIGHTS, shape_of

INF_ORM = "INFORMForSequenceClassification"
"""A Llama with one label, whose hidden layer is as wide as the model."""
OWN_CLASS = "TwoLayerHeadForSequenceClassification"
OWN_FILE = Path(__file__).with_name("two_layer_classifier.py")
"""Where `OWN_CLASS` is: plain transformers, which an export takes along."""


def with_head_found(
    config: HfConfig, folder: Path, weights: str = WEIGHTS, as_saved: Callable[[str], str] = str
) -> HfConfig:
    """Give config.json with the width of the hidden layer that the head in a folder has, where it has one.

    Args:
        folder: has the weights, or is without them.
        weights: name of the file with them, or of the one before whose index they lie in several.
        as_saved: gives the name there of a tensor.
    """
    if config.get(HEAD_HIDDEN_SIZE) is not None:
        return config
    if INF_ORM in str(config.get("architectures")):
        return config | {HEAD_HIDDEN_SIZE: config.get("hidden_size")}
    (name,) = TWO_LAYER_HEAD[HIDDEN_WEIGHT].names
    shape = shape_of(folder, as_saved(name), weights)
    return config | {HEAD_HIDDEN_SIZE: shape[0]} if shape else config


def class_name(config: HfConfig, num_rows: int) -> str:
    """Name the class that computes an export: INF-ORM's where it can, which rewardbench has too, else our own."""
    is_inf_orm = config["model_type"] == "llama" and num_rows == 1
    return INF_ORM if is_inf_orm and config[HEAD_HIDDEN_SIZE] == config["hidden_size"] else OWN_CLASS
