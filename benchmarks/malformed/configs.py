"""Malformed configurations of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.malformed.cases import BOMB, VALUES, Case, Inputs, copied, of_file, untouched, with_json

FAMILIES = ("llama3.1, head size", "mistral", "qwen3", "gemma2")
_FIELDS = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "initializer_range", "rms_norm_eps", "head_dim", "rope_theta"),
    *("hidden_act", "rope_scaling", "model_type", "pad_token_id", "tie_word_embeddings", "architectures"),
    *("sliding_window", "layer_types", "id2label", "label2id", "num_labels", "dtype", "reward_attributes"),
    *("rope_parameters", "query_pre_attn_scalar", "attn_logit_softcapping", "partial_rotary_factor"),
)
_ROPE = ("rope_type", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def cases(inputs: Inputs) -> Iterator[Case]:
    """Give about 700 of them: fields as other values, and whole files of something else."""
    yield untouched(inputs.models["qwen3"])
    for number, family in enumerate(FAMILIES):
        for field in _FIELDS[: 6 if number else None]:
            for what, value in VALUES.items():
                if what == "missing" and field in ("num_labels", "rope_parameters", "reward_attributes"):
                    continue
                model = inputs.models[family]
                change = _field(field, value, what)
                yield Case(f"{family} {field} {what}", copied(model, change))
    for field in _ROPE:
        for what, value in VALUES.items():
            change = with_json("config.json", ("rope_scaling", field), value)
            yield Case(f"rope_scaling {field} {what}", copied(inputs.models[FAMILIES[0]], change))
    for what, write in of_file(inputs.models["qwen3"], "config.json", parts=8):
        yield Case(what, write)
    for name, text in (("a bomb of aliases", BOMB), ("nested", "[" * 10_000), ("a loop", "a: &a [*a]\n")):
        yield Case(f"model.yaml {name}", _yaml(inputs, text))


def _field(field: str, value: object, what: str):
    def change(folder: Path) -> None:
        import json

        config = json.loads((folder / "config.json").read_text())
        config.setdefault(field, None)
        (folder / "config.json").write_text(json.dumps(config))
        with_json("config.json", (field,), value)(folder)

    return change


def _yaml(inputs: Inputs, text: str):
    def change(folder: Path) -> None:
        (folder / "context" / "hf_config.json").unlink()
        (folder / "context" / "model.yaml").write_text(text)

    return copied(inputs.nemo, change)
