"""What transformers 5 calls rope_parameters, also in the fields of transformers 4.57, which passes over the name.

An export has both, so that either version reads it by its own. Where 4.57 has saved a configuration of 5 again,
rope_parameters stand beside its own defaults: they are right.
"""

from __future__ import annotations

from typing import Any

from nemo_bt.errors import UserError

_FULL = "full_attention"
_SLIDING = "sliding_attention"
_LOCAL = "gemma3_text"
"""The family whose layers with a window have frequencies of their own."""


def with_rope_fields(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Give a configuration that both versions read alike; one without rope_parameters is given back.

    Raises:
        UserError: rope_parameters say what no field of 4.57 can; `where` names the file.
    """
    given = config.get("rope_parameters")
    if not given:
        return config
    by_kind = given if isinstance(given, dict) and given.keys() & {_FULL, _SLIDING} else {_FULL: given}
    full = by_kind.get(_FULL)
    local = by_kind.get(_SLIDING, full)
    if not isinstance(full, dict) or not isinstance(local, dict) or by_kind.keys() - {_FULL, _SLIDING}:
        raise UserError(f"{where}: rope_parameters: expected rope_type and rope_theta, got {given!r}.")
    fields = _fields(full)
    if local != full and config["model_type"] == _LOCAL and _kind(local) == "default":
        fields["rope_local_base_freq"] = local.get("rope_theta")
    elif local != full:
        raise UserError(
            f"{where}: rope_parameters of {_SLIDING}: expected those of {_FULL}, or for {_LOCAL} rope_type 'default' "
            f"with a rope_theta of its own, got {local!r}."
        )
    edited = config.get("rope_scaling")
    if edited and _kinds(edited) != _kinds(fields["rope_scaling"] or {}):
        raise UserError(
            f"{where}: rope_scaling {edited!r} and rope_parameters {given!r} are not the same. transformers 5 reads "
            "the latter, 4.57 the former: change both, or take rope_parameters out."
        )
    return config | {name: value for name, value in fields.items() if value is not None or name == "rope_scaling"}


def _kinds(scaling: dict[str, Any]) -> dict[str, Any]:
    """Give a scaling under one name for its kind, and without what has a field of its own."""
    own = ("type", "rope_type", "rope_theta", "partial_rotary_factor")
    values = {name: value for name, value in scaling.items() if name not in own and value is not None}
    if _kind(scaling) == "longrope":
        values.pop("original_max_position_embeddings", None)
    return values | {"rope_type": _kind(scaling)}


def rope_parameters_of(config: Any) -> dict[str, Any]:
    """Give rope_parameters of a configuration of transformers 4.57, with its defaults where config.json is silent."""
    scaling = {name: value for name, value in (getattr(config, "rope_scaling", None) or {}).items() if name != "type"}
    full = {"rope_type": _kind(getattr(config, "rope_scaling", None) or {}), "rope_theta": config.rope_theta} | scaling
    if getattr(config, "partial_rotary_factor", None) is not None:
        full["partial_rotary_factor"] = config.partial_rotary_factor
    if full["rope_type"] == "longrope":
        original = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
        full.setdefault("original_max_position_embeddings", original)
    if config.model_type != _LOCAL:
        return full
    return {_FULL: full, _SLIDING: {"rope_type": "default", "rope_theta": config.rope_local_base_freq}}


def _fields(full: dict[str, Any]) -> dict[str, Any]:
    scaling = {name: value for name, value in full.items() if value is not None}
    fields = {name: scaling.pop(name, None) for name in ("rope_theta", "partial_rotary_factor")}
    if _kind(full) == "longrope":
        fields["original_max_position_embeddings"] = scaling.pop("original_max_position_embeddings", None)
        scaling.pop("rope_type", None)
        scaling["type"] = "longrope"  # Phi-3's configuration knows no other name
    return fields | {"rope_scaling": None if _kind(full) == "default" else scaling}


def _kind(parameters: dict[str, Any]) -> Any:
    return parameters.get("rope_type", parameters.get("type", "default"))
