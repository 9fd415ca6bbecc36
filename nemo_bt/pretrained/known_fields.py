"""What of a foreign config.json goes to transformers: the fields that describe its architecture, and no others.

transformers acts on many more: it would fetch and import attention kernels that a field names, import a model's own
code, or look up a dtype by any name. Those fields are left out here, whatever they hold; what says that the model needs
such code is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

from nemo_bt.errors import UserError

READ_ELSEWHERE = {"head_dim", "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
READ_ELSEWHERE |= {"rms_norm_eps", "norm_eps", "original_max_position_embeddings", "sliding_window_pattern"}
"""Fields that are read where transformers' defaults do not have them."""
_OF_ANY = {"pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "tie_word_embeddings", "architectures"}
_OF_ANY |= {"num_labels", "id2label", "label2id", "problem_type", "finetuning_task"}
"""Fields of every family that are data; some families' configurations have no arguments for them."""
OF_KERNELS = {"attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "experts_implementation"}
"""Fields that choose kernels, and change nothing that is computed. Users' exports have them."""
_NAMES_OF_CODE = {*OF_KERNELS, "kernel_config", "use_kernels"}


def known_fields(hf_config: dict[str, Any], also: set[str]) -> dict[str, Any]:
    """Give the fields that the family's configuration has arguments for, those of all, those read elsewhere and `also`.

    Raises:
        UserError: a field names kernels of a hub.
    """
    from transformers import CONFIG_MAPPING

    for name in sorted(_NAMES_OF_CODE & hf_config.keys()):
        if "/" in str(hf_config[name]):
            raise UserError(
                f"config.json: {name}={str(hf_config[name])[:100]!r} names code of a hub, which is not fetched. Take "
                "it out if the model gives the same rewards without."
            )
    arguments = inspect.signature(CONFIG_MAPPING[hf_config["model_type"]].__init__).parameters.keys()
    known = {*arguments, *_OF_ANY, *READ_ELSEWHERE, *also} - {"self", "kwargs"}
    return {name: value for name, value in hf_config.items() if name in known}
