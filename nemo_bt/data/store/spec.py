"""What turns a row into tokens: a value that worker processes get."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.length import LengthLimit
from nemo_bt.data.formats.detect import parsed
from nemo_bt.data.formats.line_pairs import begin_alike
from nemo_bt.data.formats.responses import PromptGroup
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.read.chunk import Row
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer


@dataclass(frozen=True)
class EncodingSpec:
    """What turns a row into tokens.

    Args:
        renderer: tokenizer and template.
        source: keys and rules.
        format: key of FORMATS.
        limit: longest conversation.
        length_policy: drop, truncate_prompt_left or error.
        takes: pairs, lists or answers, as model.loss.kind asks.
        attributes: columns, fields of completions, or the two columns of both responses, that have them.
        weights: weight of each in the score of an answer that the rows do not score themselves.
        judged: columns that are read, or of which the first rows have shown that they may be left out; any other is
            looked at where it first holds something. None where the rows come from a class of one's own.
    """

    renderer: Renderer
    source: SourceSettings
    format: str
    limit: LengthLimit
    length_policy: str
    takes: str = "pairs"
    attributes: tuple[str | list[str], ...] = ()
    weights: tuple[float, ...] = ()
    judged: frozenset[str] | None = None

    @property
    def joins_rows(self) -> bool:
        """Whether neighbouring rows with the same prompt have to stay together, wherever a chunk ends."""
        return FORMATS[self.format].joins or self.source.pairs.max_pairs_per_prompt is not None

    def same_prompt(self, row: Row, other: Row, number: int) -> bool:
        """Tell whether a row, whose number is given, and the next one have the same prompt; a bad row has none."""
        try:
            return self.belong(self.parse(row, number), self.parse(other, number + 1))
        except RowError:
            return False

    def belong(self, group: PromptGroup, others: PromptGroup) -> bool:
        """Tell whether neighbours are put together: single responses to a prompt, and pairs that rows name for it."""
        form = FORMATS[self.format]
        if form.lines > 1:
            is_pair = group.rows[0] // form.lines == others.rows[0] // form.lines
            return is_pair and begin_alike(group.sides[0], others.sides[0])
        kind = form.joins or (group.given is not None and others.given is not None)
        return kind and group.same_prompt(others)

    def parse(self, row: Row, number: int) -> PromptGroup:
        """Read a row's responses.

        Raises:
            RowError: it cannot be used.
        """
        group = parsed(row, number, self.format, self.source, self.renderer.chat)
        if self.attributes and group.attributes:
            weighted = [
                sum(w * v for w, v in zip(self.weights, values, strict=True)) for values in group.attributes
            ]  # NaN where one is not known
            group.scores = [
                one if math.isnan(score) else score for one, score in zip(weighted, group.scores, strict=True)
            ]
        return group
