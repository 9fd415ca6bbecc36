"""What became of every pair of a source: kept, or dropped for one counted reason. Nothing is mended in silence.

Three kinds of reasons: BAD says that something is wrong with the data, LENGTH that a pair is too long, RULES that a
rule of `model.data.pairs` left it out. The first two have limits that stop a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_bt.config.data import DataSettings
from nemo_bt.errors import UserError

BAD = {
    "unreadable": "that are not JSON objects",
    "missing": "with a missing value",
    "type": "with a value of a wrong type",
    "roles": "with roles missing or out of order",
    "unicode": "with text that is not Unicode",
    "parts": "with parts that are no text",
    "empty": "with an empty response",
    "prompts": "with prompts that differ",
    "join": "with nothing between prompt and answer",
    "unpaired": "without a neighbour that begins with the same prompt",
    "identical": "with chosen equal to rejected",
    "template": "that the chat template refuses",
    "lost": "of which the chat template leaves out a part",
    "bos": "with BOS missing, twice at the start, or in what is said",
    "terminal": "ending in different tokens",
    "pad": "scored at a pad token",
    "reward": "whose reward is not a finite number",
}
LENGTH = {
    "long": "longer than {limit}",
    "budget": "longer than model.data.tokens_per_micro_batch",
}
RULES = {
    "single": "with no second response",
    "same": "with identical responses",
    "tie": "with tied scores",
    "margin": "below pairs.min_margin",
    "ratio": "below pairs.min_ratio",
    "cap": "over pairs.max_pairs_per_prompt",
}
ANSWERS = {
    "repeated": "that say the same as another",
    "unscored": "without a score",
}
"""Answers that are left out of lists, which stay without them: they are no pairs or lists themselves."""
_TEXTS = BAD | LENGTH | RULES | ANSWERS
_ADVICE = {
    "lost": "The rewards would not depend on what is left out: set model.data.chat_template to one that keeps it.",
    "template": "Mend the data, or set model.data.chat_template to one that takes such conversations.",
    "join": (
        "No chat template renders them. Set model.data.join=$'\\n' (typed so in a shell; or a space, or \"\" for "
        "nothing), model.data.input_template, or model.data.chat_template."
    ),
    "unpaired": "A line is missing, or one too many: mend the file where the first stands.",
    "long": (
        "Raise model.encoder_seq_length, set model.data.length_policy=truncate_prompt_left, or raise the limit, which "
        "trains without them."
    ),
    "parts": "Only text can be judged: leave such rows out, or raise the limit.",
}
"""Reason -> what to do, where that is something else than for the others."""
NUM_EXAMPLES = 3


class RowError(Exception):
    """One row, or one pair of it, that cannot be used; caught and counted.

    Args:
        reason: a key of BAD.
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def explained(reason: str, detail: str) -> str:
    """Say why a row cannot be used, and what to do where that is known."""
    return f"{_TEXTS[reason]}: {detail}. {_ADVICE.get(reason, '')}".rstrip()


@dataclass
class DropReport:
    """Counts of one source, or of a part of it.

    Attributes:
        num_rows: rows read from the files.
        num_kept: pairs that stay.
        num_longer_chosen: kept pairs whose chosen response has more characters: what the rule "the longer answer
            wins" gets right.
        num_truncated: kept pairs whose prompt was cut from the left.
        dropped: pairs left out, by key of BAD, LENGTH or RULES; a row that gives no pair counts as one.
        examples: the first three of each reason in BAD and LENGTH, with file and row.
        unread: columns that the format does not read.
        limit: what pairs that are too long are longer than.
        unit: what is counted: pairs, lists, or prompts where each answer has a value of its own.
    """

    num_rows: int = 0
    num_kept: int = 0
    num_longer_chosen: int = 0
    num_truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    limit: str = "model.encoder_seq_length"
    unit: str = "pairs"

    @property
    def num_pairs(self) -> int:
        """Pairs that the rows had: those kept and those dropped."""
        return self.num_kept + sum(count for reason, count in self.dropped.items() if reason not in ANSWERS)

    def drop(self, reason: str, where: str = "", detail: str = "", times: int = 1) -> None:
        """Count pairs that are left out."""
        self.dropped[reason] += times
        shown = self.examples.setdefault(reason, [])
        if where and len(shown) < NUM_EXAMPLES:
            shown.append(f"{where}{': ' if detail else ''}{detail}")

    def add(self, other: DropReport) -> None:
        """Take in the counts of a part that comes after this one."""
        for name in ("num_rows", "num_kept", "num_longer_chosen", "num_truncated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped += other.dropped
        for reason, examples in other.examples.items():
            self.examples[reason] = [*self.examples.get(reason, []), *examples][:NUM_EXAMPLES]
        self.unread = list(dict.fromkeys([*self.unread, *other.unread]))

    def to_json(self) -> dict[str, Any]:
        """Give plain data that `from_json` reads."""
        return dict(vars(self)) | {"dropped": dict(self.dropped)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> DropReport:
        """Read what `to_json` gave."""
        return cls(**(plain | {"dropped": Counter(plain["dropped"])}))

    def describe(self, name: str) -> str:
        """Say it in one line: `hh: 303 of 312 pairs; dropped 4 with an empty response; ...`."""
        counted = [(self._text(key), key, self.dropped[key]) for key in _TEXTS if self.dropped[key]]
        answers = dict.fromkeys(ANSWERS, " answers")
        reasons = "".join(f"; dropped {count:,}{answers.get(key, '')} {text}" for text, key, count in counted)
        cut = f"; cut {self.num_truncated:,} prompts from the left" if self.num_truncated else ""
        unread = f"; not read: {', '.join(self.unread)}" if self.unread else ""
        return f"{name}: {self.num_kept:,} of {self.num_pairs:,} {self.unit}{reasons}{cut}{unread}"

    def counted(self) -> list[tuple[str, int]]:
        """List every reason that occurred, in words, with its count."""
        return [(self._text(key), self.dropped[key]) for key in _TEXTS if self.dropped[key]]

    def _text(self, reason: str) -> str:
        return _TEXTS[reason].format(limit=self.limit)

    def check(self, name: str, data: DataSettings) -> None:
        """Check the limits that `data` has; `name` names the source in messages.

        Raises:
            UserError: more pairs bad or too long than allowed, or none left. Shows the first three by file and row.
        """
        for kinds, key in ((BAD, "max_bad_fraction"), (LENGTH, "max_drop_fraction")):
            counts = {reason: self.dropped[reason] for reason in kinds if self.dropped[reason]}
            count = sum(counts.values())
            limit = getattr(data, key)
            if count > limit * self.num_pairs:
                raise UserError(
                    f"{self.describe(name)}. Expected at most model.data.{key}={limit:g} of the pairs, found "
                    f"{count / self.num_pairs:.3g}. {self._advice(counts)}"
                )
        if not self.num_kept:
            raise UserError(
                f"{self.describe(name)}. The source yields nothing: mend the rows, loosen the limits and "
                f"model.data.pairs, or take it out. {self._advice(self.dropped)}".rstrip()
            )

    def _advice(self, counts: Mapping[str, int]) -> str:
        """Say what helps against the reason that dropped most, and show the first three rows that it dropped."""
        if not any(counts.values()):
            return ""
        most = max(counts, key=lambda reason: counts[reason])
        examples = "\n  ".join(f"{example} ({self._text(most)})" for example in self.examples.get(most, []))
        return f"{_ADVICE.get(most, 'Mend the data, or raise the limit.')} The first:\n  {examples}"
