"""How well each attribute of a model ranks pairs, and the weights with which all together do it best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from nemo_bt.batching.packing import Floats
from nemo_bt.evaluation.accuracy import tally
from nemo_bt.scoring.rows import attribute_column

_FEWEST = 2


def by_attribute(rows: Iterable[dict[str, Any]], columns: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
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
    pairs: list[list[tuple[float, float]]] = [[] for _ in names]
    for row in rows:
        own = [[_listed(row.get(attribute_column(column, name))) for column in columns] for name in names]
        if any(value is None for sides in own for side in sides for value in side):
            continue
        for found, (better, worse) in zip(pairs, own, strict=True):
            found += list(product(better, worse))
    weights = fitted_weights(np.array([[a - b for a, b in found] for found in pairs], dtype=np.float64).T)
    return {
        name: tally(found).to_json() | {"fitted_weight": weight}
        for name, found, weight in zip(names, pairs, weights, strict=True)
    }


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
