"""What a model card says of the loss."""

from dataclasses import asdict
from typing import Any

import pytest

from converters.model_card import _terms
from nemo_bt.config.model import LossSettings


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({}, ""),
        ({"margin": True, "label_smoothing": 0.1}, ", with margin=True, label_smoothing=0.1"),
        ({"custom_fn": {"path": "a.py", "name": "hinge"}}, ", in whose place stood the function hinge"),
    ],
)
def test_only_terms_that_were_on_are_told(loss: dict[str, Any], told: str) -> None:
    assert _terms(asdict(LossSettings(**loss))) == told
