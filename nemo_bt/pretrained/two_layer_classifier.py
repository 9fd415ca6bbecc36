"""A sequence classifier whose head has a hidden layer, for transformers: an export has this file beside its weights.

score = Linear(hidden_size, reward_head_hidden_size), ReLU, Linear(reward_head_hidden_size, num_labels), both with
bias. It is loaded by `AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)`, and needs
torch and transformers alone. The text model is transformers' own of the configuration, and rewards are read where its
classifiers read theirs: at the last token that is not `pad_token_id`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple


class TwoLayerHeadForSequenceClassification(PreTrainedModel):
    """`AutoModel` of a configuration, with a head of two layers."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True  # what the text model does not have, it refuses itself
    _supports_sdpa = True
    _supports_flex_attn = True
    _no_split_modules: list[str] = []  # noqa: RUF012 - the text model has its own

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = AutoModel.from_config(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.reward_head_hidden_size),
            nn.ReLU(),
            nn.Linear(config.reward_head_hidden_size, config.num_labels),
        )
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Give the rewards of each text, [texts, labels], as `logits`."""
        found = self.model(input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)
        hidden = found.last_hidden_state
        pad_token_id = self.config.pad_token_id
        if pad_token_id is None and len(hidden) > 1:
            raise ValueError("texts of a batch need pad_token_id in config.json")
        last = torch.full((len(hidden),), hidden.shape[1] - 1, device=hidden.device)
        if pad_token_id is not None and input_ids is not None:
            is_text = (input_ids != pad_token_id).to(hidden.device)
            last = (torch.arange(hidden.shape[1], device=hidden.device) * is_text).argmax(-1)
        logits = self.score(hidden[torch.arange(len(hidden), device=hidden.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=found.past_key_values,
            hidden_states=found.hidden_states,
            attentions=found.attentions,
        )


TwoLayerHeadForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
