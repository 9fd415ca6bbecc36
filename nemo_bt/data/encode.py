"""A chunk of rows -> token ids laid out by prompt, and the account of every pair. Runs in worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_bt.data.account import Account, RowError
from nemo_bt.data.choices import Choices, Text, response_of
from nemo_bt.data.construct import Pairs, make_pairs, margin_of
from nemo_bt.data.detect import FORMATS
from nemo_bt.data.guards import Finding, wrong_text, wrong_tokens
from nemo_bt.data.layout import Encoded, Layout, PairFacts
from nemo_bt.data.length import cut_prompts
from nemo_bt.data.render import Renderer
from nemo_bt.data.rows import Chunk
from nemo_bt.data.settings import SourceSettings
from nemo_bt.errors import UserError
from nemo_bt.stream import Ids


@dataclass(frozen=True)
class Recipe:
    """What turns a row into tokens.

    Args:
        renderer: tokenizer and template.
        source: keys and rules.
        format: key of FORMATS.
        max_length: longest conversation, tokens.
        length_policy: drop, truncate_prompt_left or error.
    """

    renderer: Renderer
    source: SourceSettings
    format: str
    max_length: int
    length_policy: str

    @property
    def groups_rows(self) -> bool:
        """Whether neighbouring rows with the same prompt belong together."""
        shape = FORMATS[self.format]
        capped = self.source.pairs.max_pairs_per_prompt is not None and shape.prompt_key is not None
        return shape.one_response or capped

    @property
    def columns(self) -> list[str] | None:
        """Columns of a file that are read; None for all, where keys are paths into them."""
        keys = [*FORMATS[self.format].columns(self.source), self.source.margin_key, self.source.weight_key]
        return None if any(key and "." in key for key in keys) else [key for key in keys if key]

    def same_prompt(self, row: Any, other: Any) -> bool:
        """Whether two rows have the same prompt."""
        prompt_key = FORMATS[self.format].prompt_key
        if prompt_key is None or not isinstance(row, dict) or not isinstance(other, dict):
            return False
        key = prompt_key(self.source)
        return key in row and row[key] == other.get(key)


class _Pairs:
    """Pairs of one prompt that are still in, with the account of those that are not."""

    def __init__(self, choices: Choices, file: str, account: Account) -> None:
        self.choices, self.file, self.account = choices, file, account
        self.pairs: Pairs = []

    def where(self, pair: tuple[int, int]) -> str:
        """File and row of a pair."""
        return f"{self.file} row {self.choices.rows[pair[0]]}"

    def keep(self, findings: list[Finding | None]) -> None:
        """Drop and count each pair with a finding."""
        for pair, finding in zip(self.pairs, findings, strict=True):
            if finding:
                self.account.drop(finding[0], self.where(pair), finding[1])
        self.pairs = [pair for pair, finding in zip(self.pairs, findings, strict=True) if not finding]


def encode(chunk: Chunk, file_number: int, recipe: Recipe) -> Encoded:
    """Parse, pair, check, render and tokenise the rows of one chunk.

    Raises:
        UserError: a pair too long under length_policy error; a chat template that cannot be used at all.
    """
    account = Account(num_rows=chunk.num_rows)
    renderer = recipe.renderer
    prompts = [_construct(choices, chunk.file, recipe, account) for choices in _parse(chunk, recipe, account)]
    texts = _render(prompts, renderer)
    # The rows of a file are all texts or all messages.
    of_messages = any(not isinstance(prompt.choices.sides[0], Text) for prompt in prompts if prompt.pairs)
    ids = renderer.ids([list(by_side.values()) for by_side in texts], of_messages)
    layout = Layout(file_number)
    for prompt, by_side, found in zip(prompts, texts, ids, strict=True):
        sequences = dict(zip(by_side, found, strict=True))
        prompt.keep([wrong_tokens(renderer, [by_side[s] for s in p], [sequences[s] for s in p]) for p in prompt.pairs])
        sequences = _fit(prompt, sequences, recipe)
        layout.add([_facts(prompt.choices, *pair) for pair in prompt.pairs], sequences)
    return layout.encoded(account)


def encode_ids(chunk: Chunk, file_number: int, recipe: Recipe) -> Encoded:
    """Check pairs that a class of one's own has tokenised: rows are (chosen ids, rejected ids)."""
    account = Account(num_rows=chunk.num_rows)
    renderer, layout = recipe.renderer, Layout(file_number)
    for number, row in enumerate(chunk.rows(), start=chunk.first_row):
        where = f"{chunk.file} item {number}"
        if isinstance(row, RowError):
            account.drop(row.reason, where, row.detail)
            continue
        ids = [row["chosen"], row["rejected"]]
        bos = renderer.tokenizer.bos_token or ""
        finding = wrong_tokens(
            renderer, [bos if len(i) and i[0] == renderer.tokenizer.bos_token_id else "" for i in ids], ids
        )
        if not finding and max(map(len, ids)) > recipe.max_length:
            finding = ("long", f"{max(map(len, ids))} tokens")
        if finding:
            account.drop(finding[0], where, finding[1])
        else:
            layout.add([PairFacts(0, 1, 0.0, 1.0, number, len(ids[0]) > len(ids[1]))], dict(enumerate(ids)))
    return layout.encoded(account)


def _facts(choices: Choices, chosen: int, rejected: int) -> PairFacts:
    better, worse = (len(response_of(choices.sides[side])) for side in (chosen, rejected))
    margin, weight = margin_of(choices, chosen, rejected), choices.weights[chosen]
    return PairFacts(chosen, rejected, margin, weight, choices.rows[chosen], better > worse)


def _parse(chunk: Chunk, recipe: Recipe, account: Account) -> list[Choices]:
    parse, chat = FORMATS[recipe.format].parse, recipe.renderer.chat
    found: list[Choices] = []
    previous = None
    for number, row in enumerate(chunk.rows(), start=chunk.first_row):
        try:
            if isinstance(row, RowError):
                raise row
            choices = parse(row, number, recipe.source, chat)
        except RowError as bad:
            account.drop(bad.reason, f"{chunk.file} row {number}", bad.detail)
            continue
        if recipe.groups_rows and previous is not None and recipe.same_prompt(previous, row):
            found[-1].add(choices)
        else:
            found.append(choices)
        previous = row
    return found


def _construct(choices: Choices, file: str, recipe: Recipe, account: Account) -> _Pairs:
    prompt = _Pairs(choices, file, account)
    prompt.pairs, left_out = make_pairs(choices, recipe.source.pairs)
    for reason, count in left_out.items():
        account.drop(reason, times=count)
    prompt.keep([wrong_text(choices, pair) for pair in prompt.pairs])
    return prompt


def _render(prompts: list[_Pairs], renderer: Renderer) -> list[dict[int, str]]:
    """Texts of the sides that each prompt's pairs need; pairs that the template refuses go."""
    used = [list(dict.fromkeys(side for pair in prompt.pairs for side in pair)) for prompt in prompts]
    sides = [prompt.choices.sides[side] for prompt, needed in zip(prompts, used, strict=True) for side in needed]
    rendered = iter(renderer.texts(sides))
    texts = []
    for prompt, needed in zip(prompts, used, strict=True):
        found = {side: next(rendered) for side in needed}
        refused = {side: (text.reason, text.detail) for side, text in found.items() if isinstance(text, RowError)}
        if refused:
            prompt.keep([next((refused[side] for side in pair if side in refused), None) for pair in prompt.pairs])
        texts.append({side: text for side, text in found.items() if isinstance(text, str)})
    return texts


def _fit(prompt: _Pairs, sequences: dict[int, Ids], recipe: Recipe) -> dict[int, Ids]:
    """Sequences within the length; pairs that are not go."""
    limit = recipe.max_length
    if not prompt.pairs or max(map(len, sequences.values())) <= limit:
        return sequences
    fitted = sequences
    if recipe.length_policy == "truncate_prompt_left":
        fitted = cut_prompts(prompt.choices, prompt.pairs, sequences, limit, recipe.renderer)
    longest = [max(len(fitted[side]) for side in pair) for pair in prompt.pairs]
    if recipe.length_policy == "error" and max(longest) > limit:
        raise UserError(
            f"{prompt.where(prompt.pairs[0])}: {max(longest)} tokens, expected at most model.encoder_seq_length="
            f"{limit}. Raise it, or set model.data.length_policy to drop or truncate_prompt_left."
        )
    prompt.keep([("long", f"{num_tokens} tokens") if num_tokens > limit else None for num_tokens in longest])
    side = next(iter(sequences))
    if len(fitted[side]) < len(sequences[side]):
        prompt.account.num_truncated += len(prompt.pairs)
    return fitted
