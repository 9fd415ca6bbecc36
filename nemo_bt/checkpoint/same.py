"""Whether a run that goes on is the same run: what it may not change, and what its data was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from nemo_bt.batching.sampling import ORDER
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.files import write_atomically
from nemo_bt.foreign.files import read_json, read_yaml, reading

if TYPE_CHECKING:
    from nemo_bt.data.store.pair_set import PairSet

_ORDER_KEY = "order of pairs"
_MADE_FROM = "what the data of the run to resume was made from"
_ORIGIN = "model.restore_from_path"
_PLAN = (
    _ORIGIN,
    "model.hf_config",
    "model.num_layers",
    "model.hidden_size",
    "model.ffn_hidden_size",
    "model.num_attention_heads",
    "model.num_query_groups",
    "model.kv_channels",
    "model.vocab_size",
    "model.layernorm_epsilon",
    "model.rotary_base",
    "trainer.seed",
    "model.global_batch_size",
    "model.encoder_seq_length",
    "model.tokenizer.type",
    "model.peft",
    "model.reward_head",
    "model.loss.kind",
    "model.loss.custom_fn.name",
    "model.loss.custom_fn.source",
    "model.optim.name",
    "model.data.train",
    "model.data.chat_template",
    "model.data.chat_template_kwargs",
    "model.data.chat_template_date",
    "model.data.length_policy",
    "model.data.tokens_per_micro_batch",
)
"""Settings that say which model it is, what its optimizer holds, and which pairs loading leaves and a step has."""
_BRING_BACK = (
    "Bring it back as the run wrote it, or start a new exp_manager.explicit_log_dir with model.restore_from_path at "
    "the checkpoint."
)


def check_same_plan(config_file: Path, settings: Settings) -> None:
    """Check that a run which continues has the same model and visits the same pairs in the same order as before.

    Args:
        config_file: config.yaml of the interrupted run; nothing is checked where there is none.
        settings: the settings of the run that continues.

    Raises:
        UserError: a setting that the plan of a step depends on is another one now.
    """
    if not os.path.lexists(config_file):
        return
    own = settings.model.loss.custom_fn
    if own.source == "":
        raise UserError(
            f"model.loss: nothing tells whether {own.name} is the loss of the run to resume, as it has no text of its "
            "own (a partial, a closure, an object). Go on with a function of a file."
        )
    with reading(f"{config_file}: expected the settings of the run to resume, got ", _BRING_BACK):
        before = OmegaConf.create(read_yaml(config_file, "the settings of the run to resume", _BRING_BACK))
        recorded = {key: _plain(OmegaConf.select(before, key)) for key in _PLAN}
    now, plain = (OmegaConf.create(asdict(one)) for one in (settings, Settings()))
    for plan_key, was in recorded.items():
        was = _plain(OmegaConf.select(plain, plan_key)) if was is None else was  # an earlier version had no such key
        key, old, new = _where_they_differ(plan_key, was, _plain(OmegaConf.select(now, plan_key)))
        pinned = key == _ORIGIN and str(old).startswith(f"{new}@")  # config.yaml has the hub's revision
        if old != new and not pinned:
            raise UserError(
                f"{key}={new}, but the run to resume had {old}: it would not be the same run. Set it back, or "
                "start a new exp_manager.explicit_log_dir with model.restore_from_path at the checkpoint."
            )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _where_they_differ(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Go down to the first key in which two values differ; sources that are more or fewer are told by their paths.

    A key that an earlier version did not have differs where it is set.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        inside = [(f"{key}.{name}", old.get(name), new.get(name)) for name in old | new if name in old or new[name]]
    elif _are_sections(old) and _are_sections(new) and len(old) == len(new):
        inside = [(f"{key}[{at}]", *both) for at, both in enumerate(zip(old, new, strict=True))]
    else:
        return key, _told(old), _told(new)
    return next((_where_they_differ(*one) for one in inside if one[1] != one[2]), (key, new, new))


def _are_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _told(value: Any) -> Any:
    if isinstance(value, dict) and "path" in value:
        return _told(value["path"])
    if isinstance(value, list):
        return _told(value[0]) if len(value) == 1 else f"[{', '.join(str(_told(one)) for one in value)}]"
    return value


def write_data_record(file: Path, sets: Mapping[str, PairSet]) -> None:
    """Write down everything that the token ids of a run, and their order, depend on."""
    write_atomically(file, json.dumps({_ORDER_KEY: ORDER} | _record(sets), indent=2) + "\n")


def check_same_order(file: Path) -> None:
    """Check that this version takes pairs in the order of the run that continues.

    Args:
        file: what `write_data_record` left; nothing is checked where there is none, or another kind of record.

    Raises:
        UserError: the run was started by a version that takes them in another one.
    """
    if not os.path.lexists(file):
        return
    record = read_json(file, _MADE_FROM, _BRING_BACK)
    if "train" in record and record.get(_ORDER_KEY, 1) != ORDER:
        raise UserError(
            f"{file}: the run to resume was started by a version of nemo_bt that takes pairs in another order: some "
            "would come twice in an epoch, others never. Go on with that version, or start a new "
            "exp_manager.explicit_log_dir with model.restore_from_path at the checkpoint."
        )


def check_same_data(file: Path, sets: Mapping[str, PairSet]) -> None:
    """Check that the training data is still what it was.

    Args:
        file: what `write_data_record` left; nothing is checked where there is none.
        sets: the sets of the run that continues.

    Raises:
        UserError: a file of a source, the tokenizer or the template has other contents now.
    """
    if not os.path.lexists(file):
        return
    record = read_json(file, _MADE_FROM, _BRING_BACK)
    now = _record(sets)["train"]
    with reading(f"{file}: expected {_MADE_FROM}, got ", _BRING_BACK):
        before = {name: dict(facts) for name, facts in record["train"].items()}
    for name, facts in now.items():
        was = before.get(name, {})
        differ = [key for key in facts if key != "layout" and was.get(key) != facts[key]]
        if differ:
            raise UserError(
                f"model.data.train: {', '.join(differ)} of '{name}' are not what they were when the run was started: "
                "it would not be the same run. Put them back, or start a new exp_manager.explicit_log_dir with "
                "model.restore_from_path at the checkpoint."
            )


def _record(sets: Mapping[str, PairSet]) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: {source.name: source.made_from for source in pairs.sources} for name, pairs in sets.items()}
