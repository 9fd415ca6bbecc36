"""The same token ids through transformers' model and through Megatron's, in fp32 on the CPU: do the rewards agree?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from safetensors import SafetensorError
from torch import Tensor

from nemo_bt.batching.stream import TokenGroup, build_stream
from nemo_bt.errors import UserError, first_line
from nemo_bt.pretrained.architecture import Architecture, architecture_of
from nemo_bt.pretrained.check import classifier_class, with_labels
from nemo_bt.pretrained.hf_config import read_hf_config
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource, hf_tensors
from nemo_bt.pretrained.source import TensorSource
from nemo_bt.scoring.model import open_alone

from .output import ParityError

TOLERANCE = 1e-4
"""Largest difference, relative to the largest reward or to 1; fp32 rounding of deep models stays below it."""
_PROMPT_TOKENS = 40
_LONGEST_TOKENS = 60
_NUM_PROMPTS = 4


def check_memory(source: TensorSource) -> None:
    """Check that the comparison fits into memory: it holds one fp32 copy of the model at a time, and a quarter more.

    Raises:
        UserError: it does not fit.
    """
    num_parameters = sum(info.num_elements for info in source.infos.values())
    needed_bytes = 5 * num_parameters
    free_bytes = psutil.virtual_memory().available
    if needed_bytes > free_bytes:
        raise UserError(
            f"comparing rewards needs {needed_bytes / 1e9:.1f} GB of memory ({num_parameters / 1e9:.2f} B parameters "
            f"in fp32), {free_bytes / 1e9:.1f} GB are free. Convert on a larger machine, or without it: --no-check."
        )


def check_parity(
    hf_folder: Path,
    initial: InitialWeights,
    pretrained: PretrainedSource | None = None,
    base_head: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> float:
    """Compare the rewards of both models on random ids.

    Args:
        hf_folder: the folder that transformers loads.
        initial: the Megatron side's weights.
        pretrained: what the folder is, where transformers may read it otherwise; None lets it.
        base_head: the head for the folder of a base model, which has none; None compares the folder's head.
        dtype: what the folder's weights were cast to; None keeps them.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: it is more than `TOLERANCE`.
        UserError: transformers does not load the folder.
    """
    own = pretrained.architecture if pretrained else architecture_of(read_hf_config(hf_folder / "config.json"))
    groups = _random_groups(own)
    theirs = _transformers_rewards(hf_folder, own, groups, pretrained, base_head, dtype)
    ours = _megatron_rewards(groups, initial)
    difference = (ours - theirs).abs().max().item()
    allowed = TOLERANCE * max(1.0, theirs.abs().max().item())
    if not difference <= allowed:
        raise ParityError(
            f"rewards differ by {difference:.2e} between transformers and Megatron, expected at most {allowed:.2e} "
            f"(of {len(theirs)} texts, rewards {theirs.min():.3f} to {theirs.max():.3f})."
        )
    return difference


def _random_groups(architecture: Architecture) -> list[TokenGroup]:
    """Draw prompts with two answers each, none of which has the padding token."""
    rng = np.random.default_rng(0)
    pad_id = architecture.completed.pad_token_id
    allowed = np.setdiff1d(np.arange(architecture.vocab_size), [] if pad_id is None else [pad_id])

    def ids(num_tokens: int) -> npt.NDArray[np.int32]:
        return rng.choice(allowed, num_tokens).astype(np.int32)

    return [
        TokenGroup(ids(_PROMPT_TOKENS), tuple(ids(rng.integers(1, _LONGEST_TOKENS)) for _ in range(2)))
        for _ in range(_NUM_PROMPTS)
    ]


@torch.no_grad()
def _transformers_rewards(
    folder: Path,
    architecture: Architecture,
    groups: list[TokenGroup],
    pretrained: PretrainedSource | None,
    base_head: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
) -> Tensor:
    from transformers import AutoConfig

    options: dict[str, Any] = {"attn_implementation": "eager", "local_files_only": True, "trust_remote_code": False}
    options["use_safetensors"] = True
    base = pretrained.base if pretrained else None
    is_changed = pretrained is not None and (base is not None or pretrained.head_row is not None)
    options |= {"dtype": torch.float32, "ignore_mismatched_sizes": is_changed}
    try:
        config = with_labels(architecture) if pretrained else AutoConfig.from_pretrained(folder)
        made = classifier_class(architecture)
        with _weights_alone(base.path if base else folder) as weights:
            model = made.from_pretrained(weights, config=config, **options).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: transformers does not load it: {first_line(error)}") from error
    if pretrained and is_changed:
        _put(model, hf_tensors(pretrained))
    if dtype:
        model = model.to(dtype).float()
    if base_head is not None:
        unknown = model.load_state_dict(base_head, strict=False).unexpected_keys
        if unknown:
            raise RuntimeError(f"the head has tensors that transformers' model has not: {unknown}")
    rewards = []
    for group in groups:
        for side in group.continuations:
            ids = torch.from_numpy(np.concatenate([group.prefix, side]).astype(np.int64))
            rewards.append(model(input_ids=ids[None]).logits[0])
    return torch.stack(rewards)


@contextmanager
def _weights_alone(folder: Path) -> Iterator[str]:
    """Give a folder of links to tensors: transformers would follow an adapter_config.json beside them to its base."""
    with tempfile.TemporaryDirectory(prefix="nemo_bt-weights-") as alone:
        for file in folder.glob("*.safetensors*"):
            (Path(alone) / file.name).symlink_to(file.resolve())
        yield alone


def _put(model: Any, source: TensorSource) -> None:
    """Put adapters merged with their base, or one row of the head, into transformers' model."""
    for name, parameter in model.named_parameters():
        if name in source.infos:
            parameter.copy_(source.read(name))


def _megatron_rewards(groups: list[TokenGroup], initial: InitialWeights) -> Tensor:
    engine = open_alone(initial, "32", on_gpu=False)
    (reward_CR,) = engine.all_rewards([build_stream(groups, pad_id=0)])
    engine.close()
    return reward_CR[:, 1:] if engine.attributes else reward_CR
