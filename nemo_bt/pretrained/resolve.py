"""model.restore_from_path: a Hugging Face folder or hub id, a base or reward .nemo, a one-file .nemo.

Nothing in them runs: architecture and tokenizer are read from plain data, tensors without unpickling anything else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from nemo_bt.errors import UserError
from nemo_bt.foreign.files import reading
from nemo_bt.pretrained.adapters import ADAPTERS, Adapters, WithAdapters, read_adapters
from nemo_bt.pretrained.architecture import Architecture, architecture_of, same_rotation
from nemo_bt.pretrained.check import check_hf_tensors, check_megatron_tensors
from nemo_bt.pretrained.convert import AsMegatron
from nemo_bt.pretrained.head import WithHeadRow, WithNewHead, described
from nemo_bt.pretrained.hf_config import ATTRIBUTES, HEAD_HIDDEN_SIZE, HfConfig, read_hf_config
from nemo_bt.pretrained.hub import download
from nemo_bt.pretrained.nemo_file import OF_NEMO_1, NemoFile
from nemo_bt.pretrained.nemo_metadata import HF_CONFIG
from nemo_bt.pretrained.nemo_yaml import hf_config_of_nemo_model
from nemo_bt.pretrained.peft_folder import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    PeftFolder,
    is_peft_folder,
    of_peft,
    read_peft_config,
)
from nemo_bt.pretrained.safetensors_folder import SafetensorsFolder
from nemo_bt.pretrained.source import AsDtype, TensorSource
from nemo_bt.pretrained.torch_dist import TorchDist
from nemo_bt.pretrained.two_layer_head import with_head_found

_MEND = "Take it as it was published or saved."
_LABELS = ("num_labels", "id2label", "label2id", "problem_type", ATTRIBUTES)
_OF_HEAD = (ATTRIBUTES, HEAD_HIDDEN_SIZE)
"""What a model says of its head, which its base may have none of."""
HUB_FILES_BESIDE_WEIGHTS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_HUB_FILES = (*HUB_FILES_BESIDE_WEIGHTS, "*.safetensors")


@dataclass(frozen=True)
class PretrainedSource:
    """Where a model comes from, before its weights are opened."""

    path: Path
    given: str
    """Its name as it was given; a model of the hub has the commit that was found behind it."""
    hf_config: HfConfig
    tokenizer: Path
    """Folder where the tokenizer's files would be."""
    nemo_file: NemoFile | None
    """None for a Hugging Face folder."""
    is_reward_model: bool
    """The source says of itself that it has a reward head; else it may have one or not."""
    adapters: Adapters | None = None
    base: PretrainedSource | None = None
    """The model that the adapters belong to, where there are some; without `adapters` they are PEFT's."""
    head_row: int | None = None
    """The label whose row of a classifier's head is the reward head; None where it has one label."""

    @cached_property
    def architecture(self) -> Architecture:
        """What the model is, found out when first asked for: a model that nobody can compute has a tokenizer too."""
        try:
            return architecture_of(self.hf_config)
        except UserError as error:
            raise UserError(f"{self.given}: {error}") from error


@dataclass(frozen=True)
class InitialWeights:
    """Initial weights, complete: Megatron's stacked tensors by name."""

    pretrained: PretrainedSource
    source: TensorSource
    kind: str
    """Base or reward model, of which family and format."""
    has_head: bool
    """Whether the head was there; else it is new."""
    head: str
    """Kept or new, and its norm."""

    @property
    def description(self) -> str:
        """One line: what was found, and what became of the head."""
        return f"{self.pretrained.given}: {self.kind}, head {self.head}"


def find_pretrained(
    given: str,
    adapted: tuple[Path, ...] = (),
    hub_files: tuple[str, ...] = _HUB_FILES,
    key: str = "model.restore_from_path",
) -> PretrainedSource:
    """Look at what `given` names.

    Args:
        given: path of a folder or a file, or `organisation/model@revision` on the Hugging Face hub.
        adapted: checkpoints of adapters that lead here.
        hub_files: patterns of the files to download from the hub.
        key: what the user calls it, for messages.
    """
    with reading(f"{given}: expected a model, got ", _MEND):
        path = Path(given)
        if not os.path.lexists(path):
            path, given = download(given, hub_files, key)
        return _found(path, given, adapted, hub_files)


def _found(path: Path, given: str, adapted: tuple[Path, ...], hub_files: tuple[str, ...]) -> PretrainedSource:
    if is_peft_folder(path):
        peft = read_peft_config(path)
        near = next((str(at) for at in (path.parent / peft.base, Path(peft.base)) if at.exists()), None)
        at_hub = f"{peft.base}@{peft.revision}" if peft.revision else peft.base
        base = _base_of(near or at_hub, path, PEFT_CONFIG, adapted, hub_files)
        if base.nemo_file or base.base:
            raise UserError(f"{path / PEFT_CONFIG}: {base.given}: expected a Hugging Face folder with the whole model.")
        own = next((at for at in (path, base.path) if (at / "tokenizer_config.json").exists()), path)
        config = with_head_found(base.hf_config, path, PEFT_WEIGHTS, of_peft)
        return PretrainedSource(path, given, config, own, None, peft.is_reward_model, base=base)
    if path.is_dir() and os.path.lexists(path / "config.json"):
        config = with_head_found(read_hf_config(path / "config.json"), path)
        is_classifier = "SequenceClassification" in str(config.get("architectures"))
        return PretrainedSource(path, given, config, path, None, is_classifier)
    if path.is_dir() and not (path / "context").is_dir() and not (path / OF_NEMO_1).exists():
        hf = f"a Hugging Face folder (with config.json, or PEFT's {PEFT_CONFIG})"
        raise UserError(f"{path}: expected {hf} or a .nemo directory (with context/ and weights/), found neither.")
    file = NemoFile(path)
    if os.path.lexists(file.context / HF_CONFIG):
        adapters = read_adapters(file.context)
        of_adapters = _base_of(adapters.base, path, f"context/{ADAPTERS}", adapted) if adapters else None
        config = read_hf_config(file.context / HF_CONFIG)
        return PretrainedSource(path, given, config, file.context / "tokenizer", file, True, adapters, of_adapters)
    config, tokenizer = hf_config_of_nemo_model(file.context, lambda: TorchDist(file.open_weights, str(path)).infos)
    return PretrainedSource(path, given, config, file.context / tokenizer, file, False)


def with_positions(pretrained: PretrainedSource, num_positions: int | None) -> PretrainedSource:
    """Give a model that may use another number of positions, with the same rewards; None leaves it as it is.

    Raises:
        UserError: its rotary frequencies depend on that number.
    """
    if num_positions is None:
        return pretrained
    changed = replace(pretrained, hf_config=pretrained.hf_config | {"max_position_embeddings": num_positions})
    if not same_rotation(pretrained.architecture, changed.architecture):
        raise UserError(
            f"model.max_position_embeddings={num_positions}: the frequencies of RoPE scaling "
            f"'{pretrained.architecture.rope_type}' depend on it, so it would be another model. Leave it out, or "
            "change what rope_scaling says in config.json."
        )
    return changed


def with_head_row(pretrained: PretrainedSource, row: int) -> PretrainedSource:
    """Give a reward model of one label out of a classifier of several, which has no other label any more."""
    config = {key: value for key, value in pretrained.hf_config.items() if key not in _LABELS}
    return replace(pretrained, hf_config=config, head_row=row)


def _base_of(
    base: str, path: Path, told_by: str, adapted: tuple[Path, ...], hub_files: tuple[str, ...] = _HUB_FILES
) -> PretrainedSource:
    """Find the model that adapters belong to."""
    adapted = (*adapted, path.resolve())
    if Path(base).resolve() in adapted:
        raise UserError(f"{path}: {told_by} names itself as its base, {base}.")
    try:
        return find_pretrained(base, adapted, hub_files)
    except UserError as error:
        raise UserError(f"{path}: its adapters belong to {base} ({told_by}), which is not there: {error}") from error


def hf_tensors(pretrained: PretrainedSource) -> TensorSource:
    """Open the tensors of a Hugging Face folder: PEFT's adapters merged with their base, one row of several labels."""
    source: TensorSource
    if pretrained.base is None:
        source = SafetensorsFolder(pretrained.path)
    else:
        base = SafetensorsFolder(pretrained.base.path)
        source = PeftFolder(pretrained.path, read_peft_config(pretrained.path), base)
    return source if pretrained.head_row is None else WithHeadRow(source, pretrained.head_row, str(pretrained.path))


def open_weights(pretrained: PretrainedSource, head_seed: int, dtype: torch.dtype | None = None) -> InitialWeights:
    """Open the weights of a source, checked name by name; a base model misses the head alone, and gets a new one.

    Args:
        head_seed: decides a new head.
        dtype: what tensors are cast to; None keeps every tensor's own.
    """
    with reading(f"{pretrained.given}: expected whole weights, got ", _MEND):
        return _opened(pretrained, head_seed, dtype)


def _opened(pretrained: PretrainedSource, head_seed: int, dtype: torch.dtype | None) -> InitialWeights:
    name = str(pretrained.path)
    architecture = pretrained.architecture
    source: TensorSource
    if pretrained.adapters and pretrained.base and pretrained.nemo_file:
        own = {name: pretrained.hf_config[name] for name in _OF_HEAD if name in pretrained.hf_config}
        of_base = replace(pretrained.base, hf_config=pretrained.base.hf_config | own)
        base = open_weights(of_base, head_seed).source
        source = WithAdapters(base, TorchDist(pretrained.nemo_file.open_weights, name), pretrained.adapters, name)
        has_head = True
    elif pretrained.nemo_file is None:
        source = hf_tensors(pretrained)
        has_head = check_hf_tensors(source.infos, architecture, name)
        source = AsMegatron(AsDtype(source, dtype) if dtype else source, architecture)
    else:
        source = TorchDist(pretrained.nemo_file.open_weights, name)
        has_head = check_megatron_tensors(source.infos, architecture, name)
    if dtype and pretrained.nemo_file:
        source = AsDtype(source, dtype)  # it casts the sum of adapters and base: no value is rounded twice
    if pretrained.is_reward_model and not has_head:
        raise UserError(f"{name}: a reward model without its head. A new one would be untrained: find the whole model.")
    if not has_head:
        source = WithNewHead(source, architecture, head_seed)
    what = "reward model" if has_head else "base model"
    file = ".nemo" if pretrained.nemo_file else "Hugging Face folder"
    kind = f"{what} ({pretrained.hf_config['model_type']}, {file})"
    if pretrained.base:
        kind += f" of adapters on {pretrained.adapters.base if pretrained.adapters else pretrained.base.given}"
    head = "kept" if has_head else f"new, seed {head_seed}"
    return InitialWeights(pretrained, source, kind, has_head, f"{head}, {described(source)}")
