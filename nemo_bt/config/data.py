"""model.data: which preference files, how their rows are read, how many of them, and what may be dropped."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import STRICT, AtLeast1, FromZero, Seed, Share
from nemo_bt.config.given import as_list, as_sets, completed, keys_of, name_of

Paths = Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
"""A path, or a list of them."""


def _check_weights(score_key: str | list[str] | dict[str, float]) -> str | list[str] | dict[str, float]:
    if isinstance(score_key, dict) and not any(score_key.values()):
        raise ValueError("expected a weight other than 0")
    return score_key


def _check_line_ends(text: str) -> str:
    if "\\n" in text:
        raise ValueError("expected line ends, found backslash n: type $'...' in a shell, or \"...\" in YAML")
    return text


def _check_template(template: str) -> str:
    if "{}" not in template:
        raise ValueError("expected a text with {} for the prompt")
    return _check_line_ends(template)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CustomClass:
    """A data set class of one's own; the two contracts are in nemo_bt/data/formats/custom.py."""

    path: str | None = None
    """Python file."""
    name: str | None = None
    """Class in it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Merged into the `config` that it is made with."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairRules:
    """How ranked or scored responses to one prompt become pairs (nemo_bt/data/pairs/construct.py)."""

    mode: Literal["best_vs_worst", "best_vs_random", "all_pairs"] = "best_vs_worst"
    """Which responses are compared."""
    max_pairs_per_prompt: AtLeast1 | None = None
    """At most so many, chosen at random. Rows that follow each other with the same prompt count as one, but for
    `ranked` ones, which have all of a prompt's responses."""
    min_margin: FromZero = 0.0
    """Smallest difference of the scores of a pair, or margin of a row without scores."""
    min_ratio: FromZero = 0.0
    """Smallest ratio of the chosen score to the rejected one, for scores above 0; 0 asks for none."""
    keep_ties: bool = False
    """Keep pairs whose scores are equal, or that the rows call ties; for Bradley-Terry their preference is 0.5. Losses
    with ties of their own (rao_kupper, davidson) always keep them."""
    seed: Seed = 0
    """Decides the random choices."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RowSettings:
    """How rows are read. Set once under model.data for all sources, or in a source for its own."""

    format: str = "auto"
    """auto, or a name of nemo_bt/data/formats/table.py."""
    prompt_key: str = "prompt"
    """Column with the prompt."""
    system_key: str | None = None
    """Column with a system message."""
    chosen_key: str = "chosen"
    """Column with the preferred response."""
    rejected_key: str = "rejected"
    """Column with the other one."""
    completions_key: str = "completions"
    """Column with the list of responses of `ranked` rows."""
    response_key: str = "response"
    """Column of `scored` rows, and field of `ranked` ones, with the response."""
    score_key: Annotated[str | list[str] | dict[str, float], AfterValidator(_check_weights)] = "score"
    """Column, or list column or field, of scores; several with weights give their weighted mean. For rows that say
    themselves which response was chosen, a column of two scores, or the two columns of chosen and rejected: they only
    serve `pairs.min_margin`, `min_ratio` and ties."""
    rank_key: str = "rank"
    """List column or field with ranks, 1 the best; used where no scores are."""
    margin_key: str | None = "margin"
    """Column with the strength of a preference; null, or absent from the file: the difference of scores, or 0."""
    preference_key: str | None = None
    """Column with the probability, 0 to 1, that the chosen response is the better one; null: 1."""
    attribute_keys: dict[str, str | Annotated[list[str], Field(min_length=2, max_length=2)]] = field(
        default_factory=dict
    )
    """Attribute of model.reward_head.attributes -> its column, or field of completions, dots for fields of fields; one
    that is not here has its own name. For rows of two responses, the two columns of both, in their order (chosen and
    rejected), or a column with a list of two values."""
    weight_key: str | None = "weight"
    """Column with a factor on the loss of a pair; null or absent: 1."""
    tools_key: str | None = "tools"
    """Column with the functions that the assistant may call, a list or its JSON text; the chat template gets them."""
    ignore_columns: list[str] = field(default_factory=list)
    """Columns with a part of the conversation that are left out on purpose."""
    answers_hold_prompt: bool | None = None
    """Whether texts of chosen and rejected begin with the prompt, which is then taken off them; null asks where all
    do."""
    input_template: Annotated[str, AfterValidator(_check_template)] | None = None
    """A text with {} for the prompt, as "User: {}\\nAssistant: ": prompts of text are put in, and nothing else renders
    them."""
    join: Annotated[str, AfterValidator(_check_line_ends)] | None = None
    """What stands between a prompt and an answer that nothing renders: a space, a line end, or "" for nothing. null
    takes them as they are where one of them has white space there, and refuses the row where none has. For scoring it
    is what the model was trained with."""
    pairs: PairRules = field(default_factory=PairRules)
    custom_cls: CustomClass = field(default_factory=CustomClass)

    def named(self, name: str) -> str:
        """Give a column's name: <prompt> is that of prompt_key; any other stands for itself."""
        return str(getattr(self, f"{name[1:-1]}_key") or "") if name.startswith("<") else name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SourceSettings(RowSettings):
    """One part of a mixture. At most one of fraction, repeat and count is given; none takes every pair once."""

    path: Paths
    """Files, globs or URLs (parquet, jsonl, json, arrow; .gz, .zst), or the id of a data set of the hub."""
    name: str = ""
    """Names the source in metrics and messages; null takes it from the path."""
    split: str = "train"
    """Part of a data set of the hub."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    revision: str | None = None
    """Commit, branch or tag of a data set of the hub."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the pairs, in (0, 1], drawn once."""
    repeat: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Times that an epoch has each pair; 1.5 is all of them, and a drawn half once more."""
    count: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    """Pairs an epoch has of this source; more than there are repeats them."""
    weight: FromZero = 1.0
    """Factor on the loss of its pairs."""

    @model_validator(mode="before")
    @classmethod
    def _name_it(cls, given: Any) -> Any:
        """Take the name from the path, where none is given."""
        values = keys_of(given)
        paths = as_list((values or {}).get("path"))
        if values is None or not isinstance(paths, list) or not paths:
            return given
        return values | {"name": values.get("name") or name_of(str(paths[0]))}

    @model_validator(mode="after")
    def _check_keys(self) -> SourceSettings:
        given = [name for name in ("fraction", "repeat", "count") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; expected one of them at most")
        if bool(self.custom_cls.path) != bool(self.custom_cls.name):
            raise ValueError("custom_cls: expected both path and name, or neither")
        return self


def _check_names(sources: list[SourceSettings]) -> list[SourceSettings]:
    names = [source.name for source in sources]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"several sources are called '{min(twice)}'. Give them names of their own")
    return sources


Sources = Annotated[list[SourceSettings], BeforeValidator(as_list), AfterValidator(_check_names)]
"""A path, a section of SourceSettings, or a list of them."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextSettings(RowSettings):
    """How rows are read, rendered and put into streams."""

    chat_template: str | None = None
    """null: the tokenizer's, and for scoring what the model was trained with. A name of its templates (default), a name
    of conf/chat_template, a file, or none: plain text."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables for the template."""
    chat_template_date: str | None = None
    """The date (2024-07-26) that a template which asks for today's gets; null refuses such a template."""
    tokens_per_micro_batch: AtLeast1 = 8192
    """Longest token stream that goes through the model at once."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSettings(TextSettings):
    """Preference data of a run."""

    train: Sources = field(default_factory=list)
    """A mixture: paths, or sections of SourceSettings."""
    validation: dict[str, Sources] = field(default_factory=dict)
    """Set name -> its sources; a path, or a list of paths, has names of its files. Metrics are val/<set>/..."""
    length_policy: Literal["drop", "truncate_prompt_left", "error"] = "drop"
    """What becomes of a pair beyond encoder_seq_length. Responses are never cut."""
    max_bad_fraction: Share = 0.01
    """More than this share of a source's pairs found bad (nemo_bt/data/read/drop_report.py) stops the run."""
    max_drop_fraction: Share = 0.05
    """More than this share of a source's pairs too long stops the run."""
    cache_dir: str | None = None
    """Where tokenised data is kept; null is $NEMO_BT_CACHE, else ~/.cache/nemo_bt."""
    num_workers: AtLeast1 | None = None
    """Processes that tokenise; null is one per core."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, given: Any) -> Any:
        """Give each source the keys of RowSettings that stand beside it and that it does not have itself."""
        values = keys_of(given)
        if values is None or isinstance(given, str):
            return given
        own = {field.name: values[field.name] for field in fields(RowSettings) if field.name in values}
        complete = {"train": completed(values.get("train", []), own)}
        if "validation" in values:
            sets = as_sets(values["validation"])
            is_named = isinstance(sets, dict)
            complete["validation"] = {n: completed(some, own) for n, some in sets.items()} if is_named else sets
        return values | complete
