"""What config.json says of an earlier training of a model that somebody has trained on since: it is left out."""

from __future__ import annotations

from dataclasses import replace

from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.mean import AVERAGED_FROM
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.pretrained.trained_head import TRAINED_HEAD, was_trained_on
from nemo_bt.scoring.reward_statistics import KEY

_OF_THE_REWARDS = (KEY, AVERAGED_FROM)


def as_it_is(initial: InitialWeights, terminal: Terminal) -> InitialWeights:
    """Give a model without what it no longer is; a line says what is left out.

    How it was given texts stays, with the digest of the head that it was true of, so that scoring goes on to warn.
    """
    if not was_trained_on(initial):
        return initial
    config = initial.pretrained.hf_config
    left_out = [name for name in _OF_THE_REWARDS if name in config]
    if left_out:
        terminal.line(
            f"{initial.pretrained.given} was trained on since its config.json was written: {' and '.join(left_out)} "
            "of it are left out"
        )
    kept = {name: value for name, value in config.items() if name not in _OF_THE_REWARDS}
    kept.setdefault(TRAINED_HEAD, "unknown")
    return replace(initial, pretrained=replace(initial.pretrained, hf_config=kept))
