"""README.md of an export: how to use it, what it was trained on and how it did, as far as the checkpoint tells."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from nemo_bt.config.loss import LossSettings
from nemo_bt.data.tokenize.text_settings import text_settings_of
from nemo_bt.errors import UserError
from nemo_bt.pretrained.convert import AsHf
from nemo_bt.pretrained.mean import averaged_from
from nemo_bt.pretrained.nemo_metadata import FACTS
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.pretrained.two_layer_head import OWN_FILE
from nemo_bt.scoring.reward_statistics import KEY, reward_statistics

_CARD = """---
{metadata}---

# {name}

A reward model ({family}, {parameters:,} parameters) {meaning}

## Use

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}"{trust})
{rendering}
with torch.no_grad():
    reward = model(**tokenizer(text, return_tensors="pt"{special})).logits{reward}
```

`pipeline("text-classification", "{name}", function_to_apply="none"{every}{trust})(text{special})` gives {same}.
{head}{training}"""

_ONE = """that gives a text one number: the higher, the better the last
answer. Two answers to the same prompt are compared by the difference of their rewards; a reward on its own has no
scale."""
_PROBABILITY = " `P(a over b) = sigmoid(r_a - r_b)`."
_SEVERAL = """that gives a text {number} numbers, one for each of {names}. Their
sum with the weights {weights} is the reward by which answers to the same prompt are ranked."""

_TWO_LAYERS = """
The head has two layers, for which transformers has no class: `{file}` has it, {lines} lines of torch and transformers.
Without `trust_remote_code=True` transformers makes a new head, and says so in a warning alone.
"""
_BRADLEY_TERRY = "bradley_terry"
_OF_MODELS = "These weights are the mean of those of other models, summed in fp32 and rounded once:"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@\w+")
"""A run writes down the commit that was found."""
_CONVERSATION = """messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
text = tokenizer.apply_chat_template(messages, tokenize=False)"""
_PLAIN_TEXT = """prompt, answer = "...", "..."
text = {text} + (tokenizer.eos_token or "")  # as every text of the training was put together"""


def model_card(initial: InitialWeights, export: AsHf, has_chat_template: bool, name: str) -> str:
    """Give the text of README.md.

    Args:
        initial: the .nemo that is exported.
        export: its tensors.
        name: what users load the model by.

    Raises:
        UserError: the .nemo's training.json is not as nemo_bt writes it.
    """
    pretrained = initial.pretrained
    file = pretrained.nemo_file.context / FACTS if pretrained.nemo_file else None
    texts, averages = text_settings_of(pretrained), _averages(averaged_from(pretrained))
    try:
        facts = json.loads(file.read_text()) if file and file.exists() else {}
        training = _training(facts) if facts else averages
        metadata = _metadata(facts, name)
        texts = next(iter(facts["settings"]["model"]["data"]["train"]), {}) if facts else texts
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{pretrained.path}: context/{FACTS} is not as nemo_bt writes it ({error!r}). Remove it: the model "
            "card then tells nothing of the training."
        ) from error
    attributes, has_class = pretrained.architecture.attributes, bool(pretrained.architecture.head_hidden_size)
    kind = facts["settings"]["model"]["loss"].get("kind", _BRADLEY_TERRY) if facts else None
    return _CARD.format(
        meaning=_meaning(attributes) + (_PROBABILITY if kind == _BRADLEY_TERRY and not attributes else ""),
        reward=f"[0] @ torch.tensor({list(attributes.values())})" if attributes else "[0, 0]",
        every=", top_k=None" if attributes else "",
        same="the attributes by name" if attributes else "the same",
        trust=", trust_remote_code=True" if has_class else "",
        head=_TWO_LAYERS.format(file=OWN_FILE.name, lines=len(OWN_FILE.read_text().splitlines())) if has_class else "",
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        name=name,
        family=pretrained.hf_config["model_type"],
        parameters=sum(info.num_elements for info in export.infos.values()),
        rendering=_CONVERSATION if has_chat_template else _PLAIN_TEXT.format(text=_text(texts)),
        special=", add_special_tokens=False" if has_chat_template else "",
        training=training,
    )


def _meaning(attributes: Mapping[str, float]) -> str:
    if not attributes:
        return _ONE
    weights = ", ".join(f"{weight:g}" for weight in attributes.values())
    return _SEVERAL.format(number=len(attributes), names=", ".join(attributes), weights=weights)


def _text(source: Mapping[str, Any]) -> str:
    """Write how prompt and answer became a text, in Python."""
    template, join = source.get("input_template"), source.get("join")
    if template:
        return f'{json.dumps(template)}.replace("{{}}", prompt) + answer'
    return f"prompt + {json.dumps(join)} + answer" if join else "prompt + answer"


def _averages(parts: Sequence[tuple[str, float]]) -> str:
    """Say which models a mean is of; nothing without models."""
    if not parts:
        return ""
    rows = "".join(f"| `{model}` | {weight:.6g} |\n" for model, weight in parts)
    return f"\n## Average\n\n{_OF_MODELS}\n\n| model | weight |\n|---|---|\n{rows}"


def _metadata(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Give what the hub reads of a card: what it is, the model that it was trained from, and its last validation."""
    found: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-classification"}
    origin = facts["settings"]["model"]["restore_from_path"] if facts else None
    if origin and _HUB_ID.fullmatch(origin) and not Path(origin).exists():
        found["base_model"] = origin.split("@")[0]
    kind = facts["settings"]["model"].get("loss", {}).get("kind", _BRADLEY_TERRY) if facts else _BRADLEY_TERRY
    found["tags"] = ["reward-model", kind.replace("_", "-"), "nemo_bt"]
    keys = [key.split("/") for key in facts.get("validation", {})]
    accuracies = {
        key[1]: facts["validation"]["/".join(key)] for key in keys if len(key) == 3 and key[::2] == ["val", "accuracy"]
    }
    if accuracies:
        found["model-index"] = [{"name": name, "results": [_result(*of) for of in accuracies.items()]}]
    return found


def _result(data: str, accuracy: float) -> dict[str, Any]:
    """Give an accuracy in the form of the hub's model-index."""
    return {
        "task": {"type": "text-classification", "name": "preference"},
        "dataset": {"type": data, "name": data},
        "metrics": [{"type": "accuracy", "value": round(accuracy, 4), "name": "pairwise accuracy"}],
    }


def _training(facts: dict[str, Any]) -> str:
    model = facts["settings"]["model"]
    data = facts["settings"]["model"]["data"]
    rows = {
        "data": ", ".join(f"`{Path(path).name}`" for source in data["train"] for path in source["path"]),
        "started from": f"`{Path(model['restore_from_path']).name}`"
        if model["restore_from_path"]
        else "random weights",
        "optimizer steps": f"{facts['step']:,}, each of {model['global_batch_size']:,} pairs",
        "longest text": f"{model['encoder_seq_length']:,} tokens",
        "learning rate": f"{model['optim']['lr']:g}, {model['optim']['sched']['name']}, "
        f"weight decay {model['optim']['weight_decay']:g}",
        **_adapters(model["peft"]),
        "precision": facts["settings"]["trainer"]["precision"],
        "seed": facts["settings"]["trainer"]["seed"],
    }
    lines = [
        "",
        "## Training",
        "",
        _terms(model["loss"]) + ".",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([*lines, *_evaluation(facts["validation"])]) + "\n"


def _adapters(peft: dict[str, Any]) -> dict[str, str]:
    if not peft.get("peft_scheme"):
        return {}
    lora = peft["lora_tuning"]
    of = ", ".join(lora["target_modules"])
    return {
        "adapters": f"LoRA of rank {lora['adapter_dim']}, alpha {lora['alpha']:g}, of {of}; merged in these weights"
    }


def _terms(loss: dict[str, Any]) -> str:
    """Say which loss it was, with the terms that were on."""
    plain = asdict(LossSettings())
    kind = loss.get("kind", plain["kind"])
    formula = "-log sigmoid(r_chosen - r_rejected)" if kind == plain["kind"] else f"The loss was {kind}"
    own = loss.get("custom_fn", {}).get("name")
    if own:
        return f"{formula}, in whose place stood the function {own}"
    on = [f"{k}={value}" for k, value in loss.items() if k not in ("custom_fn", "kind") and value != plain.get(k)]
    return f"{formula}, with {', '.join(on)}" if on else formula


def _evaluation(validation: dict[str, float]) -> list[str]:
    """Give a table of the last validation, with one line per set."""
    values = {name: value for name, value in validation.items() if name.startswith("val/")}
    if not values:
        return []
    sets = sorted({name.split("/")[1] for name in values})
    columns = ("accuracy", "loss", "margin", "ties")
    lines = ["", f"## Evaluation after step {validation['step']:,}", ""]
    lines += ["| set | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for one in sets:
        found = [values.get(f"val/{one}/{column}") for column in columns]
        lines.append("| " + " | ".join([one, *("" if value is None else f"{value:.4f}" for value in found)]) + " |")
    scale = reward_statistics(validation)
    if scale:
        lines += [
            "",
            f"All {scale.responses:,} rewards have mean {scale.mean:.4f} and standard deviation {scale.std:.4f}",
        ]
        lines[-1] += f" (`{KEY}` in config.json)."
    return lines
