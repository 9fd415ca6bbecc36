"""Programs that use a reward model, unchanged: each loads an export, or asks the server, and finds its rewards."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from nemo_bt.converters.peft_adapter import write_adapters
from nemo_bt.pretrained.adapters import Adapters, digest, trained_shapes
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.interop.environment import ask
from tests.interop.ours import CONVERSATIONS, TOLERANCE, rewards_of
from tests.support.hf_models import save
from tests.support.preferences import messages
from tests.support.serving import serving
from tests.support.tensors import Tensors


def test_openrlhf_loads_an_export_as_its_reward_model(exported: Path, tmp_path: Path, record_property: Any) -> None:
    record_property(
        "program", "OpenRLHF | openrlhf:openrlhf | loads an export as its reward model; empty flash_attn modules"
    )
    found = ask("openrlhf", "openrlhf_model", {"folder": str(exported), "conversations": CONVERSATIONS}, tmp_path)
    assert found == pytest.approx(rewards_of(exported, CONVERSATIONS), abs=TOLERANCE)


def test_trl_goes_on_from_an_export_and_comes_back(exported: Path, tmp_path: Path, record_property: Any) -> None:
    what = "RewardTrainer trains on from an export; what it saves has its rewards here"
    record_property("program", f"TRL | trl:trl | {what}")
    pairs = [{"prompt": f"Tea {n}?", "chosen": f"Yes, {n}.", "rejected": "No."} for n in range(8)]
    pairs = [{"chosen": messages(p["prompt"], p["chosen"]), "rejected": messages(p["prompt"], "No.")} for p in pairs]
    task = {"folder": str(exported), "output": str(tmp_path / "trained"), "pairs": pairs}
    found = ask("trl", "trl_training", task | {"conversations": CONVERSATIONS}, tmp_path)
    before = rewards_of(exported, CONVERSATIONS)
    after = rewards_of(tmp_path / "trained", CONVERSATIONS)
    assert found == {"before": pytest.approx(before, abs=TOLERANCE), "after": pytest.approx(after, abs=TOLERANCE)}
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-3


def test_clients_of_the_server_get_its_rewards(
    exported: Path, tokenizer: Any, tmp_path: Path, record_property: Any
) -> None:
    """OpenRLHF by its own code; verl and slime by the bytes that theirs send."""
    for told in (
        "OpenRLHF | openrlhf:openrlhf | asks /get_reward, by its client's code",
        "verl | 0.9.1 | asks /classify as its reward loop does with vLLM, by the bytes",
        "verl | 0.9.1 | asks /v1/embeddings as its reward loop does with SGLang, by the bytes",
        "slime | of rollout/rm_hub in 2026 | asks /remote_rm, by the bytes",
    ):
        record_property("program", told)
    conversation = messages("Tea?", "Yes, please.")
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    (expected,) = rewards_of(exported, [conversation])
    with serving(exported) as (address, _):
        task = {"url": f"{address}/get_reward", "queries": [text], "prompts": ["Tea?"], "labels": [None]}
        (answer,) = ask("openrlhf", "openrlhf_client", task, tmp_path)
        assert answer["rewards"] == answer["scores"] == pytest.approx([expected], abs=TOLERANCE)
        bare = text.removeprefix(tokenizer.bos_token or "")
        body = {"model": "small", "input": bare, "use_activation": False}
        found = httpx.post(f"{address}/classify", content=json.dumps(body).encode(), timeout=60).json()
        assert found["data"][-1]["probs"][-1] == pytest.approx(expected, abs=TOLERANCE)
        found = httpx.post(f"{address}/v1/embeddings", json={"model": "small", "input": bare}, timeout=60).json()
        assert found["data"][-1]["embedding"][-1] == pytest.approx(expected, abs=TOLERANCE)
        before = text[: text.index("Yes, please.")]
        body = {"prompt": before, "response": text.removeprefix(before), "label": None}
        assert httpx.post(f"{address}/remote_rm", json=body, timeout=60).json() == pytest.approx(
            expected, abs=TOLERANCE
        )


@pytest.mark.parametrize("version", ["transformers4", "transformers5"])
def test_a_pipeline_gives_rendered_texts_their_rewards(
    exported: Path, tokenizer: Any, tmp_path: Path, version: str, record_property: Any
) -> None:
    record_property("program", f"transformers | {version}:transformers | pipeline gives rendered texts their rewards")
    dialogs = [messages("Tea?", "Yes, please."), messages("Milk?", "No.")]
    rendered = [tokenizer.apply_chat_template(dialog, tokenize=False) for dialog in dialogs]
    texts = [text.removeprefix(tokenizer.bos_token) for text in rendered]  # the pipeline puts a BOS in front itself
    found = ask(version, "pipelines", {"folder": str(exported), "texts": texts}, tmp_path)
    assert found == pytest.approx(rewards_of(exported, dialogs), abs=TOLERANCE)


def test_peft_puts_adapters_on_their_base(tmp_path: Path, tokenizer: Any, record_property: Any) -> None:
    record_property("program", "PEFT | trl:peft | loads exported adapters on their base")
    base = save("qwen3", tmp_path / "base", classifier=False, tokenizer=tokenizer)
    pretrained = find_pretrained(str(base))
    source = open_weights(pretrained, head_seed=1).source
    modules = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
    draw = torch.Generator().manual_seed(2)
    shapes = trained_shapes(source.infos, modules, 4)
    trained = Tensors({name: torch.randn(size, generator=draw) / 10 for name, size in shapes.items()})
    (tmp_path / "adapters").mkdir()
    write_adapters(
        tmp_path / "adapters", Adapters(str(base), modules, 4, 6.0, digest(source)), trained, pretrained.architecture
    )
    task = {"folder": str(tmp_path / "adapters"), "conversations": CONVERSATIONS}
    found = ask("trl", "peft_model", task, tmp_path)
    assert found == pytest.approx(rewards_of(tmp_path / "adapters", CONVERSATIONS), abs=TOLERANCE)
