"""Traces of runs on a GPU of shapes alone, and what the planner counts of the same ranks."""

from collections import Counter
from pathlib import Path

from nemo_bt.config.load import load_settings
from nemo_bt.config.model import Settings
from nemo_bt.data.inspect import open_sets
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.phantom.build import library
from nemo_bt.phantom.record import Record, Section
from nemo_bt.phantom.spec import Gpu
from nemo_bt.phantom.start import trace
from nemo_bt.phantom.wheel import transformer_engine
from nemo_bt.planning.memory import RankMemory, rank_memory
from nemo_bt.planning.parameters import rank_parameters
from nemo_bt.planning.streams import pairs_of_set, streams_of_step
from nemo_bt.planning.traffic import group_sizes, step_traffic
from nemo_bt.training.checks import run_architecture
from tests.support.runs import REPO
from tests.support.traced_runs import Traced

CACHE = Path("~/.cache/nemo_bt/phantom").expanduser()
HOPPER = Gpu()
STEPS = 2
"""The second is what each later one is."""


def missing() -> str | None:
    """Say what this machine lacks to trace; None where it lacks nothing."""
    try:
        library(CACHE)
        transformer_engine(CACHE)
    except UserError as error:
        return str(error)
    return None


def settings_of(run: Traced, dataset: Path, folder: Path) -> Settings:
    """Settings of a run on pairs of 201 + 2 x 350 random tokens, nine to a stream: nothing is a multiple by chance."""
    pairs = REPO / "benchmarks" / "random_pairs.py"
    common = [
        f"exp_manager.explicit_log_dir={folder / 'run'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        f"trainer.devices={run.num_ranks}",
        "trainer.accelerator=gpu",
        *([] if any("trainer.precision" in one for one in run.overrides) else ["trainer.precision=bf16-mixed"]),
        "model.global_batch_size=36",
        "model.data.tokens_per_micro_batch=8192",
        "model.data.num_workers=1",
        f"model.data.train=[{{path: {pairs}, name: random}}]",
        f"model.data.custom_cls.path={pairs}",
        "model.data.custom_cls.name=RandomPairs",
        "+model.data.custom_cls.options.num_pairs=144",
        "+model.data.custom_cls.options.prefix_tokens=201",
        "+model.data.custom_cls.options.response_tokens=350",
    ]
    return load_settings(run.config, [*common, *run.overrides])


def traced(run: Traced, dataset: Path, folder: Path, gpu: Gpu = HOPPER) -> Record:
    """Trace it."""
    return trace(settings_of(run, dataset, folder), run.rank, STEPS, folder, CACHE, gpu)


class Planned:
    """What the planner counts of this rank, with the streams of the last step that is traced."""

    def __init__(self, run: Traced, dataset: Path, folder: Path) -> None:
        self.settings = settings = settings_of(run, dataset, folder)
        self.architecture = run_architecture(settings, None, num_tokens=1)
        model = settings.model
        inside = model.tensor_model_parallel_size * model.context_parallel_size
        sets, _ = open_sets(settings, Terminal(None))
        pairs = pairs_of_set(sets["train"], settings)
        step = streams_of_step(settings, pairs, STEPS - 1, self.architecture.hidden_size)
        self.streams = [load.rows for load in step[run.rank // inside % settings.data_parallel_size]]
        self.stage = run.rank // (inside * settings.data_parallel_size)
        sharing = settings.data_parallel_size * model.context_parallel_size
        self.data_rank = run.rank // model.tensor_model_parallel_size % sharing

    @property
    def memory(self) -> RankMemory:
        longest = max(self.streams, key=lambda rows: rows.tokens)
        streams = len(self.streams)
        return rank_memory(self.settings, self.architecture, self.stage, longest, streams, self.data_rank)

    @property
    def messages(self) -> Counter[tuple[str, int, int]]:
        """Messages of a step by operation, number of ranks and bytes."""
        parts = rank_parameters(self.architecture, self.settings.model, self.stage, on_gpu=True)
        sent = step_traffic(self.settings, self.architecture, parts, self.stage, self.streams)
        sizes = group_sizes(self.settings)
        found: Counter[tuple[str, int, int]] = Counter()
        for one, count in sent.items():
            found[one.operation, sizes[one.group], one.size] += count
        return found


def messages_of(step: Section) -> Counter[tuple[str, int, int]]:
    """The same of a traced step, without what is asked between steps and what a rank tells itself."""
    found: Counter[tuple[str, int, int]] = Counter()
    for one in step.messages:
        if one.phase != "load" and one.ranks > 1 and one.operation != "barrier":
            found[one.operation, one.ranks, one.size] += one.count
    return found
