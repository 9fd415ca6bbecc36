"""What `nemo-bt score`, `evaluate` and `label` are told beside a model and its layout."""

from __future__ import annotations

from dataclasses import field, fields, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator
from pydantic.dataclasses import dataclass

from nemo_bt.config.data import Paths, RowSettings, SourceSettings, TextSettings
from nemo_bt.config.fields import STRICT, AtLeast1, FromZero, Seed
from nemo_bt.config.given import completed, keys_of
from nemo_bt.config.job import EncoderSeqLength, ParallelSettings, TokenizerSettings
from nemo_bt.config.model import JobSettings

_OF_ROWS = tuple(field.name for field in fields(RowSettings))
NonEmpty = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoredModelSettings(ParallelSettings):
    """A trained reward model, its layout, and how it is given texts."""

    restore_from_path: str | None = None
    """A reward .nemo, or a Hugging Face folder or hub id (org/model@revision)."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    encoder_seq_length: EncoderSeqLength = 4096
    """Longest conversation, in tokens."""
    max_position_embeddings: AtLeast1 | None = None
    """Positions that the model may use, whatever encoder_seq_length is; null is what its config.json names."""
    data: TextSettings = field(default_factory=TextSettings)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreSettings:
    """Rows in, the same rows with rewards out."""

    input: Paths
    """One or several paths: a file, glob or URL (parquet, jsonl, json, arrow; .gz, .zst), or the id of a data set of
    the hub."""
    output: str
    """A file that ends in .jsonl, or in .parquet where all inputs are tables."""
    split: str = "train"
    """Part of a data set of the hub."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    revision: str | None = None
    """Commit, branch or tag of a data set of the hub."""
    column: NonEmpty = "reward"
    """The new column; pairs get two, with _chosen and _rejected behind it."""
    normalize: bool = False
    """Take the mean of the model's rewards on validation off each one, and divide it by their deviation."""
    rows_per_part: AtLeast1 = 4096
    """Rows that are computed together and written as one; what is written need not be computed again."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreRun(JobSettings):
    """A model at its layout, and what it scores."""

    model: ScoredModelSettings = field(default_factory=ScoredModelSettings)
    score: ScoreSettings
    needs: ClassVar[tuple[str, ...]] = ()
    """Kinds of rows (nemo_bt.scoring.rows) that it can use; none: any."""
    told_by_name: ClassVar[tuple[str, tuple[str, ...]]] = ("", ())
    """A column that rows may lack, and its values, with which the names of files begin."""

    @property
    def source(self) -> SourceSettings:
        """The input as one source of rows, so that its files may have the same names."""
        score = self.score
        data = self.model.data
        return SourceSettings(
            path=score.input,
            split=score.split,
            subset=score.subset,
            revision=score.revision,
            **{name: getattr(data, name) for name in _OF_ROWS},
        )


def _check_input(given: Any, info: ValidationInfo) -> Any:
    """Check that what is evaluated or labelled is what is scored."""
    scored = info.data.get("score")
    if scored and not isinstance(given.input, dict) and scored.input != given.input:
        raise ValueError(f"expected score.input={scored.input}, got input={given.input}. Leave score.input out")
    return given


BEST_OF_N = "best_of_n"
REWARDMATH = "rewardmath"
OF_ANSWERS = (BEST_OF_N, REWARDMATH)
"""Kinds of rows of answers whose quality is known; all others are of pairs."""
EvaluationKind = Literal[
    "auto", "pairs", "rewardbench", "rewardbench2", "rm_bench", "judgebench", "rmb", "best_of_n", "rewardmath"
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluatedSet(RowSettings):
    """One of several sets; what it leaves out it takes from `evaluate`, and how rows are read from `model.data`."""

    path: Paths
    """Paths, as in score.input."""
    split: str | None = None
    """Part of a data set of the hub."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    revision: str | None = None
    """Commit, branch or tag of a data set of the hub."""
    kind: EvaluationKind | None = None
    """As evaluate.kind."""


def _as_set(given: Any) -> Any:
    return {"path": given} if isinstance(given, str | list) else given


def _completed(given: Any, inherited: dict[str, Any]) -> Any:
    one = _as_set(given)
    return completed(one, inherited)[0] if isinstance(one, dict) else one


def _paths_or_sets(given: Any) -> str:
    return "sets" if isinstance(given, dict) else "paths"


EvaluatedSets = dict[str, Annotated[EvaluatedSet, BeforeValidator(_as_set)]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSettings:
    """Pairs in, results out."""

    input: Annotated[
        Annotated[Paths, Tag("paths")] | Annotated[EvaluatedSets, Tag("sets")], Discriminator(_paths_or_sets)
    ]
    """Paths, as in score.input, of pairs, of a benchmark's rows, or of answers whose quality is known. Or several sets
    by name, each a path or a section of path, split, subset, revision, kind and keys of model.data that say how rows
    are read; each has a folder of results."""
    output: str
    """Folder: scored.jsonl, results.json and results.md; of RewardBench and RewardBench 2 eval-set and eval-set-scores
    too, as their programs write them."""
    split: str = "train"
    """Part of a data set of the hub."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    revision: str | None = None
    """Commit, branch or tag of a data set of the hub."""
    kind: EvaluationKind = "auto"
    """auto decides by the rows."""
    label_key: str | None = None
    """For single answers, or lists of completions: the column, or field of completions, that says how good each is, as
    1 or 0 for right or wrong. null: the first of correct, is_correct, label, labels, scores, score and solution_type
    that is there."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateRun(ScoreRun):
    """A model at its layout, and its evaluation."""

    evaluate: Annotated[EvaluateSettings, AfterValidator(_check_input)]
    needs: ClassVar[tuple[str, ...]] = ("pair", "completions", "response")
    told_by_name: ClassVar[tuple[str, tuple[str, ...]]] = ("domain", ("chat", "math", "code", "safety"))

    @model_validator(mode="before")
    @classmethod
    def _score_every_set(cls, given: Any) -> Any:
        """Say what is scored, where there are several sets: each is scored in a run of its own."""
        sets = given.get("evaluate", {}).get("input") if isinstance(given, dict) else None
        if not isinstance(sets, dict):
            return given
        model = keys_of(given.get("model")) or {}
        data = keys_of(model.get("data")) or {}
        if isinstance(sets.get("path"), str | list):  # one set, as a section
            rows = {key: value for key, value in sets.items() if key in _OF_ROWS}
            one = {key: value for key, value in sets.items() if key not in ("path", *rows)} | {"input": sets["path"]}
            scored = {key: value for key, value in one.items() if key != "kind"}
            read = {"model": model | {"data": data | rows}} if rows else {}
            return given | read | {"evaluate": given["evaluate"] | one, "score": given["score"] | scored}
        inherited = {key: value for key, value in data.items() if key in _OF_ROWS}
        sets = {name: _completed(one, inherited) for name, one in sets.items()}
        first: Any = next(iter(sets.values()), None)
        path = first.get("path") if isinstance(first, dict) else None
        is_path = bool(path) and isinstance(path, str | list)
        scored = given["score"] | {"input": path if is_path else "unknown"}  # evaluate.input tells why
        return given | {"evaluate": given["evaluate"] | {"input": sets}, "score": scored}

    def one_by_one(self) -> dict[str, EvaluateRun]:
        """Give a run for each set, by name; a single one has no name."""
        if not isinstance(self.evaluate.input, dict):
            return {"": self}
        return {name: self._of_set(name, one) for name, one in self.evaluate.input.items()}

    def _of_set(self, name: str, one: EvaluatedSet) -> EvaluateRun:
        whole = self.evaluate
        output = f"{whole.output}/{name}"
        source = {key: getattr(one, key) or getattr(whole, key) for key in ("split", "subset", "revision")}
        data = replace(self.model.data, **{key: getattr(one, key) for key in _OF_ROWS})
        evaluate = replace(whole, input=one.path, output=output, kind=one.kind or whole.kind, **source)
        score = replace(self.score, input=one.path, output=f"{output}/scored.jsonl", **source)
        return replace(self, model=replace(self.model, data=data), evaluate=evaluate, score=score)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelSettings:
    """Samples in, feedback to train on out."""

    input: Paths
    """Paths, as in score.input, of rows with a prompt and a response, or with a list of completions."""
    output: str
    """A .jsonl; the scored samples stay beside it, as <output>.scored.jsonl."""
    feedback: Literal["pairwise", "ranked", "binary", "scalar"] = "pairwise"
    """What a row of the output says: which of two is better; all answers to a prompt, the best first, with their
    rewards; good or bad; or the reward."""
    pairs: Literal["random", "max", "min"] = "random"
    """With pairwise: random (each sample in one pair at most), max (best with worst), or min (the two that differ
    least, by min_margin or more)."""
    min_margin: FromZero = 0.0
    """With pairwise: least difference of the rewards of a pair; equal rewards are never one."""
    threshold: str | float = "mean"
    """With binary: mean, median, or a number; a reward that reaches it is good."""
    seed: Seed = 1234
    """Decides random pairs, and which of two comes first."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelRun(ScoreRun):
    """A model at its layout, and what it labels."""

    label: Annotated[LabelSettings, AfterValidator(_check_input)]
    needs: ClassVar[tuple[str, ...]] = ("response", "completions")


RUNS: dict[str, type[Any]] = {"score": ScoreRun, "evaluate": EvaluateRun, "label": LabelRun}
"""Command -> its settings."""
