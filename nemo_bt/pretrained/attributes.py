"""The head that settings ask for, put to a model, and a model with one reward out of one with several."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nemo_bt.config.loss import RewardHeadSettings
from nemo_bt.errors import UserError
from nemo_bt.pretrained.head import WithCombinedHead
from nemo_bt.pretrained.hf_config import ATTRIBUTES, HEAD_HIDDEN_SIZE, HfConfig
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource


def head_fields(head: RewardHeadSettings) -> HfConfig:
    """Give the fields of a new model's configuration that say what its head is."""
    attributes = {ATTRIBUTES: head.weight_of} if head.attributes else {}
    return attributes | ({HEAD_HIDDEN_SIZE: head.hidden_size} if head.hidden_size else {})


def with_head(pretrained: PretrainedSource, head: RewardHeadSettings) -> PretrainedSource:
    """Give a base model the head that is asked for; a reward model keeps its own, which has to be that one.

    Raises:
        UserError: the model has a head of its own, and it is another.
    """
    pretrained = with_attributes(pretrained, head.weight_of)
    size, own = head.hidden_size, pretrained.architecture.head_hidden_size
    if size in (None, own):
        return pretrained
    if pretrained.is_reward_model or own:
        found = f"a hidden layer of {own}" if own else "no hidden layer"
        raise UserError(
            f"model.reward_head.hidden_size={size}: {pretrained.given} is a reward model whose head has {found}. Leave "
            "the setting out to keep its head, or start from the base model to train another."
        )
    return replace(pretrained, hf_config=pretrained.hf_config | {HEAD_HIDDEN_SIZE: size})


def with_attributes(pretrained: PretrainedSource, weights: Mapping[str, float]) -> PretrainedSource:
    """Give a base model whose new head has these attributes; a model that has them gets these weights.

    Raises:
        UserError: the model has other attributes, or a head with one reward.
    """
    if not weights:
        return pretrained
    own = pretrained.architecture.attributes
    if own and list(own) != list(weights):
        raise UserError(
            f"model.reward_head.attributes: expected those of {pretrained.given}, {', '.join(own)}, got "
            f"{', '.join(weights)}. Leave the setting out to keep them."
        )
    if pretrained.is_reward_model and not own:
        raise UserError(
            f"model.reward_head.attributes: {pretrained.given} is a reward model with one reward, and its head has no "
            "row for them. Start from a base model."
        )
    return replace(pretrained, hf_config=pretrained.hf_config | {ATTRIBUTES: dict(weights)})


def combined(initial: InitialWeights, weights: Mapping[str, float]) -> InitialWeights:
    """Give the same model with one reward: the weighted sum of its attributes, as the head is linear.

    The sum of the rows is computed in fp64 and rounded once to the dtype of the head.

    Raises:
        UserError: the model has no attributes, or others.
    """
    own = initial.pretrained.architecture.attributes
    if not own:
        raise UserError(f"{initial.pretrained.given}: expected a model with attributes, found one reward.")
    check_names(own, weights)
    config = {name: value for name, value in initial.pretrained.hf_config.items() if name != ATTRIBUTES}
    pretrained = replace(initial.pretrained, hf_config=config)
    return replace(initial, pretrained=pretrained, source=WithCombinedHead(initial.source, [weights[n] for n in own]))


def check_names(own: Mapping[str, float], weights: Mapping[str, float]) -> None:
    """Check that there is a weight for each attribute of a model, and for no other."""
    if set(own) != set(weights):
        raise UserError(f"expected a weight for each of {', '.join(own)}, got {', '.join(weights) or 'none'}.")


def given_weights(given: str) -> dict[str, float]:
    """Read weights as a user gives them: `helpfulness=0.7,verbosity=-0.2`, or results.json of an evaluation.

    Raises:
        UserError: they are neither.
    """
    try:
        if given.endswith(".json"):
            read = json.loads(Path(given).read_text())["attributes"]
            weights = {name: float(of["fitted_weight"]) for name, of in read.items()}
        else:
            pairs = [one.split("=") for one in given.split(",")]
            weights = {name.strip(): float(weight) for name, weight in pairs}
        if not all(map(math.isfinite, weights.values())) or not any(weights.values()):
            raise ValueError("weights are finite, and one is not 0")
        return weights
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"attribute weights: expected name=weight,name=weight or results.json of an evaluation by attributes, got "
            f"{given} ({error!r})."
        ) from error
