"""How well each attribute of a model ranks pairs, and the weights with which all together do it best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nemo_bt.batching.packing import Floats
from nemo_bt.evaluation.accuracy import tally
from nemo_bt.scoring.columns import attribute_column

_FEWEST = 2


def by_attribute(rows: Sequence[dict[str, Any]], columns: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Measure each attribute, and fit weights on the pairs.

    The weights are those of a logistic regression without an intercept of which answer is better on the differences of
    the attributes: the Bradley-Terry likelihood of their weighted sum, with scikit-learn's penalty, half the sum of
    their squares.

    Args:
        rows: pairs with a column for each attribute; those without rewards are left out.
        columns: columns of the rewards of chosen and rejected.
        names: the attributes.

    Returns:
        By attribute: its tally, and `fitted_weight`, None where there are too few pairs to fit.
    """
    found = {name: _pairs(rows, columns, name) for name in names}
    weights = fitted_weights(np.stack([pair_P2[:, 0] - pair_P2[:, 1] for pair_P2 in found.values()], axis=1))
    return {
        name: tally([(a, b) for a, b in pair_P2.tolist()]).to_json() | {"fitted_weight": weight}
        for (name, pair_P2), weight in zip(found.items(), weights, strict=True)
    }


def attributes_in(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """Name the attributes of which a scored row has columns, beside those of its rewards."""
    start = attribute_column(columns[0], "")
    return [name.removeprefix(start) for name in row if name.startswith(start)]


def _pairs(rows: Sequence[dict[str, Any]], columns: Sequence[str], name: str) -> Floats:
    chosen, rejected = (attribute_column(column, name) for column in columns)
    kept = [row for row in rows if row.get(chosen) is not None and row.get(rejected) is not None]
    pairs = [(better, worse) for row in kept for better in _listed(row[chosen]) for worse in _listed(row[rejected])]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def fitted_weights(difference_PA: Floats) -> list[float | None]:
    """Fit the weights of attributes on differences of chosen and rejected, [P, A]."""
    if len(difference_PA) < _FEWEST or not difference_PA.any():
        return [None] * difference_PA.shape[1]
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    both = np.concatenate([difference_PA, -difference_PA])  # as it is, and the other way round
    is_first = np.repeat([1, 0], len(difference_PA))
    model = LogisticRegression(fit_intercept=False, max_iter=10_000).fit(both, is_first)
    return [float(weight) for weight in model.coef_[0]]
