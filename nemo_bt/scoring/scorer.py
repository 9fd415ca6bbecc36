"""Rewards in a program or a notebook: `RewardScorer.from_pretrained(path).score(messages)`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias
from weakref import WeakSet

import numpy as np

from nemo_bt.batching.stream import Ids
from nemo_bt.config.data import TextSettings
from nemo_bt.config.device import device_settings, runs_on_gpu
from nemo_bt.config.length import LengthLimit
from nemo_bt.data.formats.parse import whole
from nemo_bt.data.formats.prompts import Prompt, answered
from nemo_bt.data.formats.responses import Messages, Side, Text
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer, load_renderer
from nemo_bt.data.tokenize.text_settings import as_trained
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.pretrained.resolve import find_pretrained, with_positions
from nemo_bt.scoring.batch import StreamRules, Tokens, compute_all, plan, tokenise
from nemo_bt.scoring.comparison import Comparison, comparison_of
from nemo_bt.scoring.model import longest_conversation, open_alone, open_trained
from nemo_bt.scoring.reward_statistics import RewardStatistics, own_statistics

if TYPE_CHECKING:
    from nemo_bt.scoring.engine import Engine

Conversation: TypeAlias = "str | Messages | list[int]"
"""A whole text, messages that end with the response that is judged, or token ids."""


@dataclass(eq=False)
class RewardScorer:
    """A trained reward model in this process, on its first GPU or on the CPU.

    It holds Megatron's process groups, so a process has one scorer at a time, and none beside training. `close`, or the
    end of a with block, gives the groups back.
    """

    live: ClassVar[WeakSet[RewardScorer]] = WeakSet()
    """Those that are open in this process."""
    renderer: Renderer
    engine: Engine
    rules: StreamRules
    limit: LengthLimit
    statistics: RewardStatistics | None = None
    text: TextSettings = field(default_factory=TextSettings)
    """How the model was given texts: what was said here, else as in its training."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        accelerator: str = "auto",
        precision: str = "32",
        tokens_per_stream: int | None = None,
        longest_tokens: int | None = None,
        max_position_embeddings: int | None = None,
        tokenizer: str | Path | None = None,
        pad_token: str | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] = MappingProxyType({}),
        chat_template_date: str | None = None,
        normalize: bool = False,
    ) -> RewardScorer:
        """Load a model.

        Args:
            path: a Hugging Face folder or hub id, or a reward .nemo.
            accelerator: auto, gpu or cpu.
            precision: 32, or bf16-mixed for weights and activations of two bytes.
            tokens_per_stream: tokens that go through the model at once; None is 8,192 on a GPU and 2,048 on a CPU,
                whose caches hold what these need.
            longest_tokens: longest conversation; None sets no limit but the positions that the model has.
            max_position_embeddings: these positions; None is what its config.json names.
            tokenizer: a folder; None is the model's own.
            pad_token: pad token of a tokenizer that has none, or auto.
            chat_template: a value of model.data.chat_template; None is what the model was trained with.
            chat_template_kwargs: variables for the template; none are those of its training.
            chat_template_date: the day, as 2024-07-26, that a template which asks for today's gets; None as above.
            normalize: whether rewards get the mean 0 and deviation 1 that they had on the last validation.

        Raises:
            UserError: the model is missing, has no reward head or no statistics to normalize by, or its tokenizer
                cannot be used.
        """
        device = device_settings(accelerator, precision)
        pretrained = with_positions(find_pretrained(str(path), key="path"), max_position_embeddings)
        loaded = load_tokenizer(str(tokenizer or pretrained.tokenizer), pad_token, ("tokenizer", "pad_token"))
        text = TextSettings(
            chat_template=chat_template,
            chat_template_kwargs=dict(chat_template_kwargs),
            chat_template_date=chat_template_date,
        )
        text = as_trained(text, pretrained)
        renderer = load_renderer(loaded, text)
        renderer.check_date()
        limit = longest_conversation(pretrained, longest_tokens)
        initial = open_trained(pretrained)
        statistics = own_statistics(initial, "normalize=True") if normalize else None
        on_gpu = runs_on_gpu(device)
        if cls.live:
            raise UserError("a RewardScorer is open in this process, which holds one at a time. Close it first.")
        engine = open_alone(initial, precision, on_gpu)
        budget = tokens_per_stream or (8192 if on_gpu else 2048)
        scorer = cls(renderer, engine, StreamRules(budget, 1, 1, engine.hidden_size), limit, statistics, text)
        cls.live.add(scorer)
        return scorer

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"RewardScorer has no '{name}'. It has score(conversation), score_batch(conversations), compare(a, b), "
            "score_attributes(conversations), conversation(prompt, response), tokenise, score_tokens and close()."
        )

    def score(self, conversation: Conversation) -> float:
        """Give the reward of one conversation, computed in fp32.

        Raises:
            ValueError: the conversation is too long, or the chat template refuses it.
        """
        return self.score_batch([conversation])[0]

    def score_batch(self, conversations: Sequence[Conversation]) -> list[float]:
        """Give the rewards of any number of conversations, in their order; it raises what `score` raises.

        What several of them begin with is computed once, wherever they stand.
        """
        if isinstance(conversations, str):
            raise ValueError("score_batch takes a list of conversations, got one text. Give it to score.")
        return self.score_tokens(self.tokenise(conversations))

    def conversation(self, prompt: str, response: str) -> Conversation:
        """Put a response behind a prompt, as the model's training put such texts together.

        Raises:
            ValueError: no template renders them, and nothing says what stands between them.
        """
        try:
            side = answered(Prompt(prompt, None, None), response, self.renderer.chat, self.text)
        except RowError as bad:
            raise ValueError(f"the prompt {prompt[:40]!r} cannot be answered: {bad.reason}, {bad.detail}") from None
        return side.prompt + side.response if isinstance(side, Text) else side.messages

    def tokenise(self, conversations: Sequence[Conversation], keeps: int | None = None, first: int = 0) -> Tokens:
        """Turn conversations into token ids. Any thread may call it; it raises what `score` raises.

        Args:
            keeps: tokens that stay of the end of a longer conversation; -1: as many as are scored; None refuses it.
            first: number of the first conversation in errors.
        """
        ids = {i: self._ids(one, first + i, keeps) for i, one in enumerate(conversations) if _is_ids(one)}
        others = [i for i in range(len(conversations)) if i not in ids]
        limit = self.limit if keeps is None else LengthLimit(sys.maxsize, "")
        tokens = tokenise([[self._side(conversations[i], first + i)] for i in others], self.renderer, limit)
        for position, refused in sorted(tokens.refused.items()):
            number = first + others[position]
            raise ValueError(f"conversation {number} cannot be scored: {refused.reason}, {refused.detail}")
        ids |= dict(zip(others, tokens.ids, strict=True))
        if keeps is not None:
            most = min(self.limit.tokens, keeps) if keeps > 0 else self.limit.tokens
            ids = {i: one[-most:] for i, one in ids.items()}
        return Tokens([ids[i] for i in range(len(conversations))], {})

    def _ids(self, given: Any, number: int, keeps: int | None) -> Ids:
        if keeps is None and len(given) > self.limit.tokens:
            raise ValueError(
                f"conversation {number} cannot be scored: {len(given)} tokens, more than {self.limit.words}"
            )
        if not 0 <= min(given) <= max(given) < len(self.renderer.tokenizer):
            raise ValueError(f"conversation {number} has ids outside of the tokenizer's {len(self.renderer.tokenizer)}")
        return np.array(given, dtype=np.int32)

    def _side(self, conversation: Conversation, number: int) -> Side:
        """Read a conversation as `nemo-bt score` reads a row of text or of messages."""
        try:
            return whole(conversation, "conversation", self.renderer.chat)
        except RowError as bad:
            raise ValueError(f"conversation {number} cannot be scored: {bad.reason}, {bad.detail}") from None

    def score_attributes(self, conversations: Sequence[Conversation]) -> list[dict[str, float]]:
        """Give what a model with attributes says of each, by name; it raises what `score` raises."""
        return [
            dict(zip(self.engine.attributes, row[1:], strict=True))
            for row in self.score_all(self.tokenise(conversations))
        ]

    def score_tokens(self, tokens: Tokens) -> list[float]:
        """Give the rewards of what `tokenise` returned. Only one thread at a time may call it."""
        return [reward for reward, *_ in self.score_all(tokens)]

    def score_all(self, tokens: Tokens) -> list[list[float]]:
        """Give the reward and the attributes of what `tokenise` returned, as `score_tokens` does."""
        return all_finite(self.score_each(tokens))

    def score_each(self, tokens: Tokens) -> list[list[float] | None]:
        """Give the reward and the attributes of each, and None for one whose are not all finite."""
        if self not in self.live:
            raise ValueError("this scorer is closed: from_pretrained opens another")
        if not tokens.ids:
            return []
        found = compute_all(plan(tokens, self.rules), self.engine, self.renderer.pad_id, self.rules.multiple_of)
        if not self.statistics:
            return found
        return [row and [self.statistics.normalize(row[0]), *row[1:]] for row in found]

    def compare(self, a: Conversation, b: Conversation) -> Comparison:
        """Tell which of two conversations is better; it raises what `score` raises."""
        reward_a, reward_b = self.score_batch([a, b])
        return comparison_of(reward_a - reward_b, self.statistics.std if self.statistics else 1.0)

    def close(self) -> None:
        """Give the process groups back."""
        self.engine.close()
        self.live.discard(self)

    def __enter__(self) -> RewardScorer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def all_finite(rows: list[list[float] | None]) -> list[list[float]]:
    """Give what `score_each` gave, where each has a finite reward; ValueError names the first that has none."""
    if None in rows:
        raise ValueError(f"conversation {rows.index(None)} has a reward that is not a finite number")
    return [row for row in rows if row is not None]


def _is_ids(conversation: Sequence[Any]) -> bool:
    return isinstance(conversation, list) and bool(conversation) and all(type(token) is int for token in conversation)
