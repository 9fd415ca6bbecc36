"""A chunk of rows -> token ids laid out by prompt, and the account of every pair. Runs in worker processes."""

from __future__ import annotations

from collections.abc import Iterator

from nemo_bt.batching.stream import Ids
from nemo_bt.config.length import LengthLimit
from nemo_bt.data.formats.detect import unread_since
from nemo_bt.data.formats.line_pairs import has_lost_track
from nemo_bt.data.formats.responses import Preference, PromptGroup, Text, response_of
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.pairs.checks import Finding, lost_part, stray_bos, wrong_text, wrong_tokens
from nemo_bt.data.pairs.construct import make_lists, make_pairs, margin_of
from nemo_bt.data.pairs.truncate import cut_prompt
from nemo_bt.data.read.chunk import Chunk
from nemo_bt.data.read.drop_report import DropReport, RowError
from nemo_bt.data.store.records import Encoded, Facts, Layout
from nemo_bt.data.store.spec import EncodingSpec
from nemo_bt.data.tokenize.chat_template import Renderer
from nemo_bt.errors import UserError


class _GroupPairs:
    """Pairs of one prompt that are still in, with the account of those that are not."""

    def __init__(self, group: PromptGroup, file: str, drop_report: DropReport) -> None:
        self.group = group
        self.file = file
        self.drop_report = drop_report
        self.pairs: list[Preference] = []

    def where(self, pair: Preference) -> str:
        """Name the file and row of a pair."""
        return f"{self.file} row {pair.row}"

    def keep(self, findings: list[Finding | None]) -> None:
        """Drop and count each pair with a finding."""
        for pair, finding in zip(self.pairs, findings, strict=True):
            if finding:
                self.drop_report.drop(finding[0], self.where(pair), finding[1])
        self.pairs = [pair for pair, finding in zip(self.pairs, findings, strict=True) if not finding]


def encode(chunk: Chunk, file_number: int, spec: EncodingSpec) -> Encoded:
    """Parse, pair, check, render and tokenise the rows of one chunk.

    Raises:
        UserError: a pair is too long under length_policy error, a chat template cannot be used at all, or a column
            that was empty so far holds a part of the conversation which the format does not read.
    """
    drop_report = DropReport(num_rows=chunk.num_rows)
    layout = Layout(file_number, len(spec.attributes))
    for group, pairs, sequences in usable_pairs(chunk, spec, drop_report):
        layout.add([_facts(group, pair) for pair in pairs], sequences)
    return layout.encoded(drop_report)


def usable_pairs(
    chunk: Chunk, spec: EncodingSpec, drop_report: DropReport
) -> Iterator[tuple[PromptGroup, list[Preference], dict[int, Ids]]]:
    """Give the pairs of a chunk that are kept, by prompt, in the order in which they are stored.

    Args:
        drop_report: gets what is dropped.

    Yields:
        Responses to a prompt; pairs of them; ids of each side's whole conversation, by its position.
    """
    renderer = spec.renderer
    prompts = [_construct(group, chunk.file, spec, drop_report) for group in _parse(chunk, spec, drop_report)]
    texts = _render(prompts, renderer)
    of_messages = [any(not isinstance(side, Text) for side in prompt.group.sides) for prompt in prompts]
    ids = renderer.ids([list(by_side.values()) for by_side in texts], of_messages)
    for prompt, by_side, found in zip(prompts, texts, ids, strict=True):
        sequences = dict(zip(by_side, found, strict=True))
        prompt.keep([_wrong_tokens(renderer, prompt.group, pair, by_side, sequences) for pair in prompt.pairs])
        for pairs, fitting in _fit(prompt, sequences, spec):
            yield prompt.group, pairs, fitting


def _wrong_tokens(
    renderer: Renderer, group: PromptGroup, pair: Preference, texts: dict[int, str], sequences: dict[int, Ids]
) -> Finding | None:
    for side in pair.sides:
        if stray_bos(renderer, group.sides[side]):
            return "bos", repr(response_of(group.sides[side])[:60])
        lost = lost_part(group.sides[side], texts[side])
        if lost:
            return "lost", lost
    is_ended = [renderer.is_rendered(texts[side]) for side in pair.sides]
    return wrong_tokens(renderer, [sequences[side] for side in pair.sides], is_ended, texts[pair.chosen])


def encode_ids(chunk: Chunk, file_number: int, spec: EncodingSpec) -> Encoded:
    """Check pairs that a class of one's own has tokenised: rows are (chosen ids, rejected ids)."""
    drop_report = DropReport(num_rows=chunk.num_rows)
    renderer = spec.renderer
    layout = Layout(file_number, len(spec.attributes))
    for number, row in enumerate(chunk.rows(), start=chunk.first_row):
        where = f"{chunk.file} item {number}"
        if isinstance(row, RowError):
            drop_report.drop(row.reason, where, row.detail)
            continue
        ids = [row["chosen"], row["rejected"]]
        finding = wrong_tokens(renderer, ids, [True, True])
        longest = max(map(len, ids))
        if not finding and longest > spec.limit.tokens:
            if spec.length_policy == "error":
                raise _too_long(where, longest, spec.limit)
            finding = ("long", f"{longest} tokens")
        if finding:
            drop_report.drop(finding[0], where, finding[1])
        else:
            is_longer = len(ids[0]) > len(ids[1])
            facts = Facts((0, 1), number, is_longer, margin=row["margin"], weight=row["weight"])
            layout.add([facts], dict(enumerate(ids)))
    return layout.encoded(drop_report)


def _facts(group: PromptGroup, pair: Preference) -> Facts:
    first, last = (len(response_of(group.sides[side])) for side in (pair.chosen, pair.rejected))
    return Facts(
        sides=pair.sides,
        row=pair.row,
        is_longer=first > last,
        margin=margin_of(pair),
        preference=pair.preference,
        weight=pair.weight,
        scores=pair.scores or (),
        attributes=pair.attributes or tuple(group.attributes[side] for side in pair.sides if group.attributes),
    )


def _parse(chunk: Chunk, spec: EncodingSpec, drop_report: DropReport) -> list[PromptGroup]:
    """Read responses by prompt: neighbouring rows with the same one are put together."""
    found: list[PromptGroup] = []
    joins = False
    rows = chunk.rows()
    if spec.judged is not None:
        where = f"{chunk.file} from row {chunk.first_row}"
        drop_report.unread = unread_since(where, spec.format, rows, spec.source, spec.judged)
    form = FORMATS[spec.format]
    if form.lines > 1 and has_lost_track(rows, form.conversation):
        raise UserError(
            f"{chunk.file} from row {chunk.first_row}: lines are read in twos, chosen and rejected of one prompt, and "
            "from here on most do not begin alike. A line is missing, or one too many: mend the file."
        )
    for number, row in enumerate(rows, start=chunk.first_row):
        try:
            group = spec.parse(row, number)
        except RowError as bad:
            drop_report.drop(bad.reason, f"{chunk.file} row {number}", bad.detail)
            joins = False
            continue
        if joins and spec.belong(found[-1], group):
            found[-1].add(group)
        else:
            found.append(group)
        joins = True
    return found


def _construct(group: PromptGroup, file: str, spec: EncodingSpec, drop_report: DropReport) -> _GroupPairs:
    prompt = _GroupPairs(group, file, drop_report)
    if FORMATS[spec.format].lines > len(group.sides) > 0:
        drop_report.drop("unpaired", f"{file} row {group.rows[0]}", repr(response_of(group.sides[0])[:60]))
        return prompt
    if spec.takes == "pairs":
        prompt.pairs, left_out = make_pairs(group, spec.source.pairs)
    else:
        prompt.pairs, left_out = make_lists(group, least=2 if spec.takes == "lists" else 1)
    for reason, count in left_out.items():
        drop_report.drop(reason, times=count)
    prompt.keep([wrong_text(group, pair) for pair in prompt.pairs])
    return prompt


def _render(prompts: list[_GroupPairs], renderer: Renderer) -> list[dict[int, str]]:
    """Render the sides that each prompt's pairs need; pairs that the template refuses go."""
    used = [list(dict.fromkeys(side for pair in prompt.pairs for side in pair.sides)) for prompt in prompts]
    sides = [prompt.group.sides[side] for prompt, needed in zip(prompts, used, strict=True) for side in needed]
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


def _fit(
    prompt: _GroupPairs, sequences: dict[int, Ids], spec: EncodingSpec
) -> list[tuple[list[Preference], dict[int, Ids]]]:
    """Give the pairs within the length, with their sequences. A pair whose prompt is cut stands alone from then on."""
    limit = spec.limit.tokens
    longest = {pair: max(len(sequences[side]) for side in pair.sides) for pair in prompt.pairs}
    whole = [pair for pair in prompt.pairs if longest[pair] <= limit]
    if len(whole) == len(prompt.pairs):
        return [(whole, sequences)]
    fitting = [(whole, sequences)]
    for pair in [pair for pair in prompt.pairs if longest[pair] > limit]:
        if spec.length_policy == "error":
            raise _too_long(prompt.where(pair), longest[pair], spec.limit)
        cut = None
        if spec.length_policy == "truncate_prompt_left":
            cut = cut_prompt(prompt.group, pair, sequences, limit, spec.renderer)
        if cut is None:
            prompt.drop_report.drop("long", prompt.where(pair), f"{longest[pair]} tokens")
        else:
            prompt.drop_report.num_truncated += 1
            fitting.append(([pair], cut))
    return fitting


def _too_long(where: str, num_tokens: int, limit: LengthLimit) -> UserError:
    return UserError(
        f"{where}: {num_tokens} tokens, expected at most {limit.words}. Raise it, or set "
        "model.data.length_policy to drop or truncate_prompt_left."
    )
