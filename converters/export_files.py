"""The folder of an export: weights, config.json and tokenizer as they came, and what a reward model has to say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from nemo_bt.data.tokenize.text_settings import TEXT_SETTINGS, text_settings_of
from nemo_bt.data.tokenize.tokenizer import keep_tokenizer
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.convert import AsHf
from nemo_bt.pretrained.hf_config import HfConfig, attribute_weights, complete, head_hidden_size
from nemo_bt.pretrained.mean import AVERAGED_FROM, as_averaged, averaged_from
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource
from nemo_bt.pretrained.rope_parameters import rope_parameters_of
from nemo_bt.pretrained.safetensors_folder import write_shards
from nemo_bt.pretrained.trained_head import TRAINED_HEAD, digests_of, was_trained_on
from nemo_bt.pretrained.two_layer_head import OWN_CLASS, OWN_FILE, class_name
from nemo_bt.scoring.reward_statistics import KEY, as_config, statistics_of

from .model_card import model_card
from .progress import megabytes

_LABEL = "reward"
_LEFT_OUT = ("auto_map", KEY, TEXT_SETTINGS, TRAINED_HEAD, AVERAGED_FROM, "id2label", "label2id")
"""Fields that are not exported: they name code, or describe the model that this one was trained from."""
_MODEL_INPUTS = ["input_ids", "attention_mask"]


def write_folder(
    folder: Path,
    initial: InitialWeights,
    tokenizer: Any,
    tokenizer_folder: Path,
    name: str,
    max_shard_bytes: int,
    terminal: Terminal,
) -> None:
    """Write everything that a folder for AutoModelForSequenceClassification has, tensor by tensor, with a bar.

    Args:
        folder: one that exists.
        initial: the model.
        tokenizer: was loaded from `tokenizer_folder`, and has a pad token.
        name: what users load the model by, for README.md.
        max_shard_bytes: size of a safetensors file, which is held in memory.

    Raises:
        UserError: what the model says of itself is not as nemo_bt writes it; nothing has been written then.
    """
    pretrained = initial.pretrained
    told = told_of_model(pretrained)
    export = AsHf(initial.source, pretrained.architecture)
    is_chat = tokenizer.chat_template is not None
    is_chat = is_chat and not {"chat_template", "input_template"} & {*told.get(TEXT_SETTINGS, {})}
    card = model_card(initial, export, is_chat, name)
    with megabytes(terminal, export.infos) as progress:
        write_shards(folder, export.infos, export.tensors(), max_shard_bytes, progress)
    dtype = next(iter(export.infos.values())).dtype
    was = pretrained.hf_config.get(TRAINED_HEAD) if was_trained_on(initial) else None
    of_model = {**told, TRAINED_HEAD: was or digests_of(initial)} if told else {}
    write_config(folder, pretrained.hf_config, tokenizer.pad_token_id, dtype, of_model)
    write_tokenizer(tokenizer, tokenizer_folder, folder)
    (folder / "README.md").write_text(card)


def write_config(
    folder: Path,
    hf_config: HfConfig,
    pad_token_id: int,
    dtype: torch.dtype,
    of_model: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write config.json: the fields of `hf_config`, the head (one label, or one an attribute), and the padding token.

    RoPE stands there as transformers 4.57 and as transformers 5 read it. A head of two layers has its class beside it.

    transformers reads the reward at the last token that is not `pad_token_id`; `of_model` is from `told_of_model`.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSES

    config = {name: value for name, value in hf_config.items() if name not in _LEFT_OUT}
    own = hf_config.get("id2label")
    is_one = isinstance(own, dict) and len(own) == 1
    names = list(attribute_weights(hf_config)) or (list(own.values()) if own and is_one else [_LABEL])
    is_own = head_hidden_size(hf_config) is not None
    if is_own:
        write_class(folder)
        config["auto_map"] = {"AutoModelForSequenceClassification": f"{OWN_FILE.stem}.{OWN_CLASS}"}
    config |= {
        "architectures": [class_name(hf_config, len(names)) if is_own else CLASSES[hf_config["model_type"]]],
        "num_labels": len(names),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "pad_token_id": pad_token_id,
        "problem_type": "regression",
        "torch_dtype" if "torch_dtype" in config else "dtype": str(dtype).removeprefix("torch."),
    }
    config.setdefault("rope_parameters", rope_parameters_of(complete(hf_config)))
    config |= of_model
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_class(folder: Path) -> None:
    """Write the class of a head of two layers, of which transformers has none."""
    shutil.copyfile(OWN_FILE, folder / OWN_FILE.name)


def told_of_model(pretrained: PretrainedSource) -> dict[str, Any]:
    """Give what config.json says of a model beside its architecture, for scoring."""
    texts = text_settings_of(pretrained)
    told = as_config(statistics_of(pretrained)) | as_averaged(averaged_from(pretrained))
    return told | ({TEXT_SETTINGS: texts} if texts else {})


def write_tokenizer(tokenizer: Any, source: Path, folder: Path) -> None:
    """Copy the tokenizer's files, byte for byte where nothing has to be added.

    A pad token that was chosen here is added. So are the model's inputs where the tokenizer emits `token_type_ids`,
    which a classifier rejects.
    """
    keep_tokenizer(tokenizer, source, folder)
    if "token_type_ids" in tokenizer.model_input_names:
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(config | {"model_input_names": _MODEL_INPUTS}, indent=2, ensure_ascii=False) + "\n")
