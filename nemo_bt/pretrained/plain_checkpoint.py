"""A checkpoint to resume from: whether it holds tensors and plain data alone, before NeMo and Megatron load it."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.pretrained.nemo_file import NemoFile
from nemo_bt.pretrained.torch_dist import FORMAT, TorchDist
from nemo_bt.pretrained.torch_dist_records import Records

_OF_CHECKPOINT = re.compile(r"^(\.metadata|metadata\.json|common\.pt|__\d+_\d+\.distcp)$")


def check_plain(checkpoint: Path) -> Records:
    """Check that a .nemo directory holds tensors and plain data alone, and give what its `.metadata` says.

    Raises:
        UserError: it holds more, which a resume would have to unpickle.
    """
    try:
        others = [path.name for path in (checkpoint / "weights").iterdir() if not _OF_CHECKPOINT.match(path.name)]
        if others:
            raise UserError(f"{checkpoint}: weights/ has {others[0]}, which no checkpoint of nemo_bt has.")
        if (checkpoint / "weights" / "metadata.json").read_text() != FORMAT:
            raise UserError(f"{checkpoint}: weights/metadata.json: expected {FORMAT}.")
        source = TorchDist(NemoFile(checkpoint).open_weights, str(checkpoint))
        source.check_objects()
    except (OSError, UserError) as error:
        raise UserError(
            f"{error} Nothing of it was loaded. If it is your own, and your callbacks keep such objects, "
            "set exp_manager.trust_checkpoint=true: that unpickles it, which can run code."
        ) from error
    return source.records
