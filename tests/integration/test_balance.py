"""The loss that balances experts, against transformers' own on each sequence alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from nemo_bt.batching.stream import Comparison, build_stream
from nemo_bt.config.loss import LossSettings
from nemo_bt.pretrained.convert import AsHf
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support.hf_models import build
from tests.support.random_groups import random_groups
from tests.support.runs import relative_difference
from tests.support.stacked import InMemory, stacked_gradients

COEFFICIENT = 0.3


@pytest.mark.parametrize("shape", ["mixtral", "qwen3 moe"])
def test_gradients_equal_transformers(shape: str, one_rank: None, tmp_path: Path) -> None:
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    groups = random_groups(3, shared=True, seed=5)
    groups[0] = replace(
        groups[0], comparisons=(Comparison((1, 0)), Comparison((1, 2)))
    )  # one in two pairs; elsewhere one in none
    hf = build(shape)
    hf.save_pretrained(tmp_path / "hf")
    pretrained = find_pretrained(str(tmp_path / "hf"))
    config = reward_config(pretrained.architecture, seq_length=256, moe_aux_loss_coeff=COEFFICIENT)
    model = RewardModel(config, LossSettings())
    model.initial_weights, model._trainer = open_weights(pretrained, 0), None
    model.configure_model()
    stream = build_stream(groups, pad_id=0, multiple_of=64)
    reward_C = model.module.train()(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
    chosen_P, rejected_P = reward_C[stream.sides_PK].unbind(1)
    (-F.logsigmoid(chosen_P - rejected_P)).sum().backward()

    total = torch.zeros(())
    for group in groups:
        rewards, balances = [], []
        for side in group.continuations:
            ids = torch.tensor([[*group.prefix.tolist(), *side.tolist()]])
            out = hf.model(input_ids=ids, output_router_logits=True)
            rewards.append(hf.score(out.last_hidden_state)[0, -1, 0])
            each = [load_balancing_loss_func((layer,), 4, top_k=2) / 2 for layer in out.router_logits]
            assert len(each) == 4
            balances.append(sum(each))
        for pair in group.comparisons:
            chosen, rejected = pair.sides
            total = total - F.logsigmoid(rewards[chosen] - rewards[rejected])
            total = total + COEFFICIENT * (balances[chosen] + balances[rejected]) / 2
    total.backward()

    found = dict(AsHf(InMemory(stacked_gradients(model)), pretrained.architecture).tensors())
    expected = {name: parameter.grad for name, parameter in hf.named_parameters()}
    differences = {name: relative_difference(found[name], gradient) for name, gradient in expected.items()}
    assert max(differences.values()) < 2e-5, max(differences, key=differences.__getitem__)
