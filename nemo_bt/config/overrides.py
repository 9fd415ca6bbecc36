"""What a user types behind a key -> Hydra's grammar: a text is taken as it stands, whatever characters it has."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from nemo_bt.config.data import SourceSettings
from nemo_bt.config.messages import resolve, without_none

_OVERRIDE = re.compile(r"^(\+{0,2})([\w.-]+)=(.*)$", re.DOTALL)
_HYDRAS_OWN = re.compile(r"""(null|'.*'|".*"|\$\{.*)?""", re.DOTALL)
"""Values that mean to Hydra what they mean to the user: none, a text in quotes, an interpolation."""


def in_hydras_grammar(override: str, kind: type) -> str:
    """Quote the value of an override where Hydra would read it as something else than the text that it is.

    `model.data.train=a, b {2}.jsonl` is one path; a list or a section is still written in Hydra's grammar.

    Args:
        kind: the dataclass of all settings.
    """
    match = _OVERRIDE.match(override)
    if not match:
        return override
    plus, key, value = match.groups()
    _, type_at = resolve(kind, key.split("."))
    is_text = without_none(type_at) is str
    if not is_text:
        value = value.strip()
        is_list_or_number = value.startswith(("[", "{")) or re.fullmatch(r"true|false|[-+\d.eE]+", value)
        # A number is no path, but a mistake that is told as one.
        is_text = _takes_text(type_at) and not is_list_or_number
    if _HYDRAS_OWN.fullmatch(value) or (not is_text and _is_read(f"{plus}{key}={value}")):
        return f"{plus}{key}={value}"
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    trailing = re.search(r"\\*$", escaped)
    return f"{plus}{key}='{escaped}{trailing.group() if trailing else ''}'"


def _takes_text(kind: Any) -> bool:
    """Tell whether a field is a text, a path, or a list or section of paths for which one may stand alone."""
    inner = without_none(kind)
    parts = get_args(inner)
    if get_origin(inner) is list:
        return parts[0] in (str, SourceSettings)
    if get_origin(inner) is dict:
        return get_args(without_none(parts[-1])) == (SourceSettings,)
    return inner is str or (bool(parts) and all(_takes_text(part) or _is_of_sections(part) for part in parts))


def _is_of_sections(kind: Any) -> bool:
    return get_origin(kind) is dict and is_dataclass(without_none(get_args(kind)[-1]))


def _is_read(override: str) -> bool:
    """Tell whether Hydra can read an override as it stands."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True
