"""A model with real weights, made ready to be compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.support.real_catalog import RealModel


@dataclass(frozen=True)
class Real:
    """A prepared model, and the classifier that it makes with a random head.

    Args:
        published: what `make models` prepared.
        classifier: folder of transformers' sequence classifier with one label and a pad token of its own.
        folder: for what is made of them.
    """

    model: RealModel
    published: Path
    classifier: Path
    folder: Path

    @property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.classifier)

    def reference(self, folder: Path | None = None) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder or self.classifier, dtype=torch.float32).eval()
