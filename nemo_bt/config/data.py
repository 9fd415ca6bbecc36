"""model.data: which preference files, how their rows are read, how many of them, and what may be dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CustomClass:
    """A data set class of one's own; the two contracts are in nemo_bt/data/formats/custom.py."""

    path: str | None
    """Python file."""
    name: str | None
    """Class in it."""
    options: dict[str, Any]
    """Merged into the `config` that it is made with."""


@dataclass(frozen=True)
class PairRules:
    """How ranked or scored responses to one prompt become pairs (nemo_bt/data/pairs/construct.py)."""

    mode: str
    """best_vs_worst, best_vs_random or all_pairs."""
    max_pairs_per_prompt: int | None
    """At most so many, chosen at random. Rows that follow each other with the same prompt count as one, but for
    `ranked` ones, which have all of a prompt's responses."""
    min_margin: float
    """Smallest difference of the scores of a pair, or margin of a row without scores."""
    min_ratio: float
    """Smallest ratio of the chosen score to the rejected one, for scores above 0; 0 asks for none."""
    seed: int
    """Of the random choices."""


@dataclass(frozen=True)
class RowSettings:
    """How rows are read. Set once under model.data for all sources, or in a source for its own."""

    format: str
    """auto, or a name of nemo_bt/data/formats/general.py."""
    prompt_key: str
    system_key: str | None
    """Column with a system message, where the prompt is a text."""
    chosen_key: str
    rejected_key: str
    completions_key: str
    """Column with the list of responses of `ranked` rows."""
    response_key: str
    """Column of `scored` rows, and field of `ranked` ones, with the response."""
    score_key: str | list[str] | dict[str, float]
    """Column, or list column or field, of scores; several with weights give their weighted mean. For rows that say
    themselves which response was chosen, a column of two scores, or the two columns of chosen and rejected: they only
    serve `pairs.min_margin`, `min_ratio` and ties."""
    rank_key: str
    """List column or field with ranks, 1 the best; used where no scores are."""
    margin_key: str | None
    """Column with the strength of a preference; null, or absent from the file: the difference of scores, or 0."""
    weight_key: str | None
    """Column with a factor on the loss of a pair; null or absent: 1."""
    pairs: PairRules
    custom_cls: CustomClass


@dataclass(frozen=True)
class SourceSettings(RowSettings):
    """One part of a mixture. Of fraction, repeat and count at most one is given; none takes every pair once."""

    path: list[str]
    """Files, globs or URLs (parquet, jsonl, json, arrow; .gz, .zst), or the id of a data set of the hub."""
    name: str
    """For metrics and messages; null takes it from the path."""
    split: str
    """Of a data set of the hub, as subset and revision are."""
    subset: str | None
    revision: str | None
    fraction: float | None
    """Share of the pairs, in (0, 1], drawn once."""
    repeat: float | None
    """Times that an epoch has each pair; 1.5 is all of them, and a drawn half once more."""
    count: int | None
    """Pairs an epoch has of this source; more than there are repeats them."""
    weight: float
    """Factor on the loss of its pairs."""


@dataclass(frozen=True)
class DataSettings(RowSettings):
    """Preference data of a run."""

    train: list[SourceSettings]
    """A mixture: paths, or sections of SourceSettings."""
    validation: dict[str, list[SourceSettings]]
    """Set name -> its sources; metrics are logged as val/<set>/..."""
    chat_template: str | None
    """null: the tokenizer's. A name of its templates, a name of conf/chat_template, a file, or none: plain text."""
    chat_template_kwargs: dict[str, Any]
    """Variables for the template."""
    chat_template_date: str | None
    """The date (2024-07-26) that a template which asks for today's gets; null refuses such a template."""
    tokens_per_micro_batch: int
    """Longest token stream that goes through the model at once."""
    length_policy: str
    """Beyond encoder_seq_length: drop the pair, truncate_prompt_left, or error. Responses are never cut."""
    max_bad_fraction: float
    """More than this share of a source's pairs found bad (nemo_bt/data/read/drop_report.py) stops the run."""
    max_drop_fraction: float
    """More than this share of a source's pairs too long stops the run."""
    cache_dir: str | None
    """Where tokenised data is kept; null is $NEMO_BT_CACHE, else ~/.cache/nemo_bt."""
    num_workers: int | None
    """Processes that tokenise; null is one per core."""
