"""Tests with real weights: `make test-real`. `make test` does not collect them (tests/conftest.py)."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.support.real_catalog import BY_NAME
from tests.support.real_models import NOT_THERE, models_folder
from tests.support.real_weights import Real


@pytest.fixture(scope="module", params=["SmolLM2-135M-Instruct", "gemma-3-270m"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Gigabytes, so they go when the tests are done."""
    published = models_folder() / request.param
    if not published.is_dir():
        pytest.skip(NOT_THERE)
    folder = tmp_path_factory.mktemp("real")
    model = BY_NAME[request.param]
    tokenizer = AutoTokenizer.from_pretrained(published)
    tokenizer.pad_token = model.unused
    classifier = AutoModelForSequenceClassification.from_pretrained(
        published, num_labels=1, pad_token_id=tokenizer.pad_token_id, dtype=torch.float32
    )
    torch.nn.init.normal_(classifier.score.weight, std=0.05, generator=torch.Generator().manual_seed(1))
    classifier.save_pretrained(folder / "classifier")
    tokenizer.save_pretrained(folder / "classifier")
    yield Real(model, published, folder / "classifier", folder)
    shutil.rmtree(folder)
