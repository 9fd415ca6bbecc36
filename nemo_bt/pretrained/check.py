"""Checks that all tensors that transformers' own model has are there, in the right shape, and nothing else."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch

from nemo_bt.errors import UserError, first_line
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.convert import megatron_infos
from nemo_bt.pretrained.hf_config import HEAD_HIDDEN_SIZE, RAISED
from nemo_bt.pretrained.names import EMBEDDING, HEAD, HEADS, HF_HEADS, HF_LANGUAGE_MODEL_HEAD
from nemo_bt.pretrained.source import TensorInfo

_NOT_WEIGHTS = ("rotary_emb.inv_freq",)
"""Buffers that old folders have; they follow from the configuration."""


def with_labels(architecture: Architecture) -> Any:
    """Give transformers' configuration of an architecture, with a label for each row of its head; it may be changed."""
    config = deepcopy(architecture.completed)
    config.num_hidden_layers = architecture.num_layers
    config.num_labels = architecture.num_head_rows
    return config


def classifier_class(architecture: Architecture) -> Any:
    """Give what makes the sequence classifier of an architecture: transformers' class, or ours of a head of two layers.

    A model's own code is never run.
    """
    from transformers import AutoModelForSequenceClassification

    if architecture.head_hidden_size is None:
        return AutoModelForSequenceClassification
    from nemo_bt.pretrained.two_layer_classifier import TwoLayerHeadForSequenceClassification

    return TwoLayerHeadForSequenceClassification


@cache
def expected_tensors(architecture: Architecture) -> dict[str, TensorInfo]:
    """List the tensors of transformers' sequence classifier of an architecture, as fp32; nothing is allocated.

    Raises:
        UserError: its sizes make no model.
    """
    made = classifier_class(architecture)
    make = made._from_config if architecture.head_hidden_size else made.from_config
    try:
        with torch.device("meta"):
            model = make(with_labels(architecture))
    except RAISED as error:
        raise UserError(f"config.json: transformers makes no model of it: {first_line(error)}") from error
    return {name: TensorInfo(tuple(tensor.shape), torch.float32) for name, tensor in model.state_dict().items()}


def check_hf_tensors(infos: dict[str, TensorInfo], architecture: Architecture, where: str) -> bool:
    """Check a Hugging Face folder's tensors, and tell whether it has a reward head.

    A language model's head may be there; it is not used. `where` names the folder in messages.
    """
    ours = {
        name: info for name, info in infos.items() if name != HF_LANGUAGE_MODEL_HEAD and not name.endswith(_NOT_WEIGHTS)
    }
    expected = expected_tensors(architecture)
    last = architecture.table[HEAD].names[0]
    rows = ours[last].shape[0] if last in ours else 1
    if rows > 1 == architecture.num_head_rows and ours[last].shape[1:] == expected[last].shape[1:]:
        labels = architecture.hf_config.get("id2label")
        names = f" ({', '.join(map(str, labels.values()))})" if isinstance(labels, dict) and len(labels) == rows else ""
        raise UserError(
            f"{where}: a classifier of {rows} labels{names}, not a reward model: its head gives {rows} numbers a text, "
            "a reward is one. To take one row of the head, from 0, as the reward: nemo-bt import "
            f"--head-row {rows - 1} --input {where} --output reward.nemo"
        )
    return _compare(ours, expected, where, HF_HEADS)


def check_megatron_tensors(infos: dict[str, TensorInfo], architecture: Architecture, where: str) -> bool:
    """Check a Megatron checkpoint's tensors, as `check_hf_tensors` does a folder's.

    The embedding may have more rows than the vocabulary: Megatron pads it.
    """
    expected = megatron_infos(expected_tensors(architecture), architecture)
    if EMBEDDING in infos and _has_rows(infos[EMBEDDING], architecture.vocab_size, expected[EMBEDDING]):
        expected[EMBEDDING] = infos[EMBEDDING]
    is_language_head = HEAD in infos and _has_rows(infos[HEAD], architecture.vocab_size, expected[EMBEDDING])
    ours = {name: info for name, info in infos.items() if name != HEAD or not is_language_head}
    return _compare(ours, expected, where, HEADS)


def _has_rows(info: TensorInfo, num_rows: int, like: TensorInfo) -> bool:
    """Tell whether a table has at least `num_rows` rows of the width of `like`."""
    return len(info.shape) == 2 and info.shape[0] >= num_rows and info.shape[1] == like.shape[1]


def _compare(infos: dict[str, TensorInfo], expected: dict[str, TensorInfo], where: str, heads: tuple[str, ...]) -> bool:
    """Check that nothing but the whole head is missing, and tell whether it is there."""
    own = expected.keys() & {*heads}
    has_head = not infos.keys().isdisjoint(own)
    missing = sorted(expected.keys() - infos.keys() - (set() if has_head else own))
    unknown = sorted(infos.keys() - expected.keys())
    if missing:
        raise UserError(f"{where}: {_some(missing)} missing; expected {len(expected)} tensors, found {len(infos)}.")
    if not {*heads}.isdisjoint(unknown):
        raise UserError(
            f"{where}: expected the head {', '.join(sorted(own))}, found {_some(sorted({*unknown} & {*heads}))} there. "
            f"{HEAD_HIDDEN_SIZE} of config.json, or model.reward_head.hidden_size, is for a head of two layers alone."
        )
    if unknown:
        raise UserError(
            f"{where}: {_some(unknown)} not known to this architecture with one head. Nothing is dropped in silence: "
            "remove what does not belong, or name the architecture that has it in config.json."
        )
    for name, info in infos.items():
        if expected[name].shape != info.shape:
            raise UserError(f"{where}: {name}: expected shape {list(expected[name].shape)}, found {list(info.shape)}.")
    return has_head


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more + (" are" if len(names) > 1 else " is")
