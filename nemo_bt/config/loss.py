"""model.loss and model.reward_head: what the data says, which loss learns it, and what the head gives."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import STRICT, Above0, AtLeast1, FromZero

LossKind = Literal["bradley_terry", "hinge", "rao_kupper", "davidson", "plackett_luce", "regression"]
TAKES: dict[str, str] = {"plackett_luce": "lists", "regression": "answers"}
"""Kind of loss -> what its comparisons are: lists of two answers or more, or answers with a value each; else pairs."""
WITH_TIES = ("rao_kupper", "davidson")


def strength_map(scale: dict[str, float]) -> dict[float, float]:
    """Read the strengths of a map, which YAML and JSON may have as texts."""
    return {float(strength): factor for strength, factor in scale.items()}


def _check_scale(scale: Any) -> Any:
    """Check a map of strengths, and give its strengths as texts, which every file can have as keys."""
    if isinstance(scale, bool):
        return scale
    if not isinstance(scale, dict) or not scale:
        raise ValueError("expected true, false, or a map with a factor for each strength")
    texts = {str(strength): factor for strength, factor in scale.items()}
    try:
        if len(strength_map(texts)) < len(texts):
            raise ValueError("a strength is there twice")
    except ValueError as error:
        raise ValueError("expected numbers for strengths, each once") from error
    if not all(isinstance(factor, int | float) and factor >= 0 for factor in scale.values()):
        raise ValueError("expected a factor of 0 or more for each strength")
    return texts


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CustomFunction:
    """A function of one's own, by file and name: checkpoints keep the two texts."""

    path: str | None = None
    """Python file."""
    name: str | None = None
    """Function in it."""
    source: str | None = None
    """SHA-256 of the file, or of the function's own text, which the run writes; empty for a partial or a closure."""

    @model_validator(mode="after")
    def _check_both(self) -> CustomFunction:
        if bool(self.name) != bool(self.path or self.source is not None):
            raise ValueError("expected both path and name, or neither")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossSettings:
    """Which loss, and its terms; formulas in nemo_bt.loss and nemo_bt.losses."""

    kind: LossKind = "bradley_terry"
    """bradley_terry: pairs; with preference_key soft labels. hinge: pairs. rao_kupper, davidson: pairs and ties.
    plackett_luce: all ranked answers to a prompt as one list. regression: answers with a score or attributes each."""
    margin: bool = False
    """Subtract the row's margin from the reward difference; for hinge it is the lead that is wanted."""
    scale: Annotated[bool | dict[str, FromZero], BeforeValidator(_check_scale)] = False
    """Multiply a pair's loss by the row's margin (its strength), or by what a map has for it: {1: 1, 2: 3, 3: 10}."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Probability that a label is wrong."""
    center_rewards_coefficient: FromZero = 0.0
    """Factor on (r_chosen + r_rejected)^2."""
    length_penalty: FromZero = 0.0
    """Factor on the covariance of preferences with the length of answers, formula in nemo_bt.losses.length; above
    1 the shorter answer is preferred, and with smoothing, soft labels or a scale below 1 from less."""
    length_scale_tokens: Above0 = 100.0
    """Difference of lengths, in tokens, from which a pair counts nearly in full for it."""
    hinge_margin: Above0 = 1.0
    """Lead of the chosen response from which there is no loss, in reward units."""
    tie: Above0 = 1.0
    """Rao-Kupper's threshold in reward units (ln of their theta), or Davidson's v."""
    learn_tie: bool = False
    """Train that parameter with the model, from the value above; a run logs it as tie, and exports leave it out."""
    regression_coefficient: FromZero = 0.0
    """Factor on a regression loss beside a ranking one, for data that has scores or attributes."""
    regression_error: Literal["mse", "bce"] = "mse"
    """Error of a regression: squared, or binary cross-entropy for values in [0, 1]."""
    custom_fn: CustomFunction = field(default_factory=CustomFunction)
    """A loss of one's own in the place of all of the above but kind, which says what it gets; its contract is
    `nemo_bt.LossFn`, or `nemo_bt.ComparisonLoss`."""

    @property
    def takes(self) -> str:
        """What comparisons are: pairs, lists or answers."""
        return TAKES.get(self.kind, "pairs")

    @property
    def terms(self) -> dict[str, Any]:
        """The terms that are on, by name."""
        plain = LossSettings()
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "custom_fn"}
        return {name: value for name, value in values.items() if value != getattr(plain, name)}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RewardHeadSettings:
    """What the head is, and what it gives: one reward, or one for each attribute."""

    hidden_size: AtLeast1 | None = None
    """Width of a hidden layer with ReLU between the model and the rewards, both with bias; INF-ORM's is the model's
    hidden_size. null: a linear head without bias, or what a reward model has."""
    attributes: list[str] = field(default_factory=list)
    """Names of attributes, one row of the head each, which model.data.attribute_keys finds in the data; none: one
    reward. A model that has attributes keeps them."""
    weights: list[float] | None = None
    """Weight of each attribute in the reward that ranks; null: all alike, summing to 1."""

    @model_validator(mode="after")
    def _check_weights(self) -> RewardHeadSettings:
        if len({*self.attributes}) < len(self.attributes) or not all(self.attributes):
            raise ValueError("attributes: expected names, each once")
        if self.weights is not None and len(self.weights) != len(self.attributes):
            raise ValueError(f"weights: expected one for each of {len(self.attributes)} attributes")
        if self.weights is not None and not any(self.weights):
            raise ValueError("weights: expected one other than 0")
        return self

    @property
    def weight_of(self) -> dict[str, float]:
        """The weight of each attribute, by name."""
        number = len(self.attributes)
        return dict(zip(self.attributes, self.weights or [1 / number] * number, strict=True)) if number else {}
