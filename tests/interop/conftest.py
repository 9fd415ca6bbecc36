from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.hf_models import save
from tests.support.runs import convert


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """An export in bf16, as OpenRLHF loads models, that went through both converters."""
    folder = tmp_path_factory.mktemp("programs")
    save("qwen3", folder / "hf", dtype=torch.bfloat16, tokenizer=tokenizer)
    for name, source, target in (("hf_to_nemo", "hf", "rm.nemo"), ("nemo_to_hf", "rm.nemo", "exported")):
        result = convert(name, "--input", folder / source, "--output", folder / target)
        assert result.returncode == 0, result.stderr
    return folder / "exported"
