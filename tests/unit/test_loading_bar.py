"""A bar moves while weights are read."""

import io
from pathlib import Path

import torch

from nemo_bt.config.model import ModelSettings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.names import EMBEDDING
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.training.loading_bar import ShownReads, with_bar
from tests.support.hf_models import save


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_read_moves_the_bar_and_the_next_one_takes_its_place(tmp_path: Path) -> None:
    initial = open_weights(find_pretrained(str(save("qwen2", tmp_path / "model"))), head_seed=0)
    layout = ModelSettings(tensor_model_parallel_size=2)
    for screen, is_shown in ((Tty(), True), (io.StringIO(), False)):
        terminal = Terminal(screen)
        shown = with_bar(initial, layout, terminal)
        assert shown.source.infos == initial.source.infos
        assert shown.description == initial.description
        assert not terminal.has_bar
        assert torch.equal(shown.source.read(EMBEDDING), initial.source.read(EMBEDDING))
        assert terminal.has_bar == is_shown
        terminal.start(0, 3)
        terminal.stop()
        assert ("MB of weights" in screen.getvalue()) == is_shown
        total_bytes = sum(info.num_bytes for info in initial.source.infos.values())
        assert isinstance(shown.source, ShownReads)
        assert shown.source.total_bytes == total_bytes // 2
        assert shown.source.done_bytes == initial.source.infos[EMBEDDING].num_bytes
