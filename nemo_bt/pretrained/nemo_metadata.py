"""Plain data in `context/` of a .nemo, beside what NeMo writes there: the architecture and facts of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_bt.pretrained.hf_config import HfConfig

HF_CONFIG = "hf_config.json"
"""Hugging Face's configuration as it came."""
FACTS = "training.json"
"""Step, settings and the last validation, which a model card tells. It is empty where nobody has trained yet."""


def write_facts(context: Path, hf_config: HfConfig, facts: dict[str, Any]) -> None:
    """Write both files into `context/` of a .nemo; `facts` can be JSON."""
    for name, data in ((HF_CONFIG, hf_config), (FACTS, facts)):
        (context / name).write_text(json.dumps(data, indent=2) + "\n")


def read_facts(context: Path) -> dict[str, Any]:
    """Read what `write_facts` was given as `facts`; none where nobody has trained yet, or NeMo wrote the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON object.
    """
    file = context / FACTS
    return dict(json.loads(file.read_text())) if file.exists() else {}
