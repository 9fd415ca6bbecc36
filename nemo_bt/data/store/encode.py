"""A chunk of rows -> token ids laid out by prompt, and the account of every pair. Runs in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nemo_bt.batching.stream import Ids
from nemo_bt.config.data import SourceSettings
from nemo_bt.data.formats.detect import FORMATS
from nemo_bt.data.formats.responses import Choices, Preference, Text, response_of
from nemo_bt.data.pairs.checks import Finding, wrong_text, wrong_tokens
from nemo_bt.data.pairs.construct import make_pairs, margin_of
from nemo_bt.data.pairs.truncate import cut_prompt
from nemo_bt.data.read.drop_report import Account, RowError
from nemo_bt.data.read.rows import Chunk, Row
from nemo_bt.data.store.records import Encoded, Layout, PairFacts
from nemo_bt.data.tokenize.chat_template import Renderer
from nemo_bt.errors import UserError


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
    def joins_rows(self) -> bool:
        """Whether neighbouring rows with the same prompt have to stay together, wherever a chunk ends."""
        return FORMATS[self.format].one_response or self.source.pairs.max_pairs_per_prompt is not None

    def same_prompt(self, row: Row, other: Row) -> bool:
        """Whether two rows have the same prompt; a bad row has none."""
        try:
            return self.belong(self.parse(row, 0), self.parse(other, 0))
        except RowError:
            return False

    def belong(self, choices: Choices, others: Choices) -> bool:
        """Whether neighbours are put together: single responses, and pairs that rows name, to the same prompt."""
        kind = FORMATS[self.format].one_response or (choices.given is not None and others.given is not None)
        return kind and choices.same_prompt(others)

    def parse(self, row: Row, number: int) -> Choices:
        """A row's responses.

        Raises:
            RowError: it cannot be used.
        """
        if isinstance(row, RowError):
            raise row
        return FORMATS[self.format].parse(row, number, self.source, self.renderer.chat)


class _Pairs:
    """Pairs of one prompt that are still in, with the account of those that are not."""

    def __init__(self, choices: Choices, file: str, account: Account) -> None:
        self.choices, self.file, self.account = choices, file, account
        self.pairs: list[Preference] = []

    def where(self, pair: Preference) -> str:
        """File and row of a pair."""
        return f"{self.file} row {pair.row}"

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
    account, layout = Account(num_rows=chunk.num_rows), Layout(file_number)
    for choices, pairs, sequences in usable_pairs(chunk, recipe, account):
        layout.add([_facts(choices, pair) for pair in pairs], sequences)
    return layout.encoded(account)


def usable_pairs(
    chunk: Chunk, recipe: Recipe, account: Account
) -> Iterator[tuple[Choices, list[Preference], dict[int, Ids]]]:
    """Pairs of a chunk that are kept, by prompt, in the order in which they are stored.

    Args:
        chunk: of rows.
        recipe: of its source.
        account: gets what is dropped.

    Yields:
        Responses to a prompt; pairs of them; ids of each side's whole conversation, by its position.
    """
    renderer = recipe.renderer
    prompts = [_construct(choices, chunk.file, recipe, account) for choices in _parse(chunk, recipe, account)]
    texts = _render(prompts, renderer)
    of_messages = [any(not isinstance(side, Text) for side in prompt.choices.sides) for prompt in prompts]
    ids = renderer.ids([list(by_side.values()) for by_side in texts], of_messages)
    for prompt, by_side, found in zip(prompts, texts, ids, strict=True):
        sequences = dict(zip(by_side, found, strict=True))
        prompt.keep([_wrong_tokens(renderer, pair, by_side, sequences) for pair in prompt.pairs])
        for pairs, fitting in _fit(prompt, sequences, recipe):
            yield prompt.choices, pairs, fitting


def _wrong_tokens(
    renderer: Renderer, pair: Preference, texts: dict[int, str], sequences: dict[int, Ids]
) -> Finding | None:
    return wrong_tokens(renderer, [texts[side] for side in pair.sides], [sequences[side] for side in pair.sides])


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
        longest = max(map(len, ids))
        if not finding and longest > recipe.max_length:
            if recipe.length_policy == "error":
                raise _too_long(where, longest, recipe.max_length)
            finding = ("long", f"{longest} tokens")
        if finding:
            account.drop(finding[0], where, finding[1])
        else:
            facts = PairFacts(0, 1, row["margin"], row["weight"], number, len(ids[0]) > len(ids[1]))
            layout.add([facts], dict(enumerate(ids)))
    return layout.encoded(account)


def _facts(choices: Choices, pair: Preference) -> PairFacts:
    better, worse = (len(response_of(choices.sides[side])) for side in pair.sides)
    return PairFacts(*pair.sides, margin_of(pair), pair.weight, pair.row, better > worse)


def _parse(chunk: Chunk, recipe: Recipe, account: Account) -> list[Choices]:
    """Responses by prompt: neighbouring rows with the same one are put together."""
    found: list[Choices] = []
    joins = False
    for number, row in enumerate(chunk.rows(), start=chunk.first_row):
        try:
            choices = recipe.parse(row, number)
        except RowError as bad:
            account.drop(bad.reason, f"{chunk.file} row {number}", bad.detail)
            joins = False
            continue
        if joins and recipe.belong(found[-1], choices):
            found[-1].add(choices)
        else:
            found.append(choices)
        joins = True
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
    used = [list(dict.fromkeys(side for pair in prompt.pairs for side in pair.sides)) for prompt in prompts]
    sides = [prompt.choices.sides[side] for prompt, needed in zip(prompts, used, strict=True) for side in needed]
    rendered = iter(renderer.texts(sides))
    texts = []
    for prompt, needed in zip(prompts, used, strict=True):
        found = {side: next(rendered) for side in needed}
        refused = {side: (text.reason, text.detail) for side, text in found.items() if isinstance(text, RowError)}
        if refused:
            prompt.keep(
                [next((refused[side] for side in pair.sides if side in refused), None) for pair in prompt.pairs]
            )
        texts.append({side: text for side, text in found.items() if isinstance(text, str)})
    return texts


def _fit(prompt: _Pairs, sequences: dict[int, Ids], recipe: Recipe) -> list[tuple[list[Preference], dict[int, Ids]]]:
    """Pairs within the length, with their sequences. A pair whose prompt is cut no longer shares it with the others."""
    limit = recipe.max_length
    longest = {pair: max(len(sequences[side]) for side in pair.sides) for pair in prompt.pairs}
    whole = [pair for pair in prompt.pairs if longest[pair] <= limit]
    if len(whole) == len(prompt.pairs):
        return [(whole, sequences)]
    fitting = [(whole, sequences)]
    for pair in [pair for pair in prompt.pairs if longest[pair] > limit]:
        if recipe.length_policy == "error":
            raise _too_long(prompt.where(pair), longest[pair], limit)
        cut = None
        if recipe.length_policy == "truncate_prompt_left":
            cut = cut_prompt(prompt.choices, pair, sequences, limit, recipe.renderer)
        if cut is None:
            prompt.account.drop("long", prompt.where(pair), f"{longest[pair]} tokens")
        else:
            prompt.account.num_truncated += 1
            fitting.append(([pair], cut))
    return fitting


def _too_long(where: str, num_tokens: int, limit: int) -> UserError:
    return UserError(
        f"{where}: {num_tokens} tokens, expected at most model.encoder_seq_length={limit}. Raise it, or set "
        "model.data.length_policy to drop or truncate_prompt_left."
    )
