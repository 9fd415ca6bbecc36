"""Pair sets -> NeMo's Trainer: one Lightning batch is one optimizer step, a list of streams for this rank."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from megatron.core import parallel_state
from nemo.lightning.megatron_parallel import MegatronStep
from nemo.lightning.pytorch.plugins.data_sampler import DataSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nemo_bt.batching.sampling import pairs_of_step, validation_batches
from nemo_bt.batching.stream import PairStream
from nemo_bt.config.model import Settings
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.metrics import num_sums
from nemo_bt.training.steps.plan import build_streams, plan_step

_BUILDER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next step")


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of one step.

    Args:
        name: train, or the validation set's name.
        streams: the micro-batches of this data-parallel rank.
        num_pairs: pairs of the step over all ranks.
        num_tokens: real tokens of the step over all ranks.
        num_streams: streams of the step over all ranks.
        num_attended: pairs of a query and a key that it sees, over all ranks.
    """

    name: str
    streams: list[PairStream]
    num_pairs: int
    num_tokens: int
    num_streams: int
    num_attended: int


class StepDataset(Dataset[StepBatch]):
    """Step number -> the streams of that step on this data-parallel rank.

    A step is a function of its number alone, so the next may be built, by a thread, before it is asked for.
    """

    def __init__(
        self, name: str, pairs: PairSet, settings: Settings, pad_id: int, hidden_size: int, num_steps: int
    ) -> None:
        self.name = name
        self.pairs = pairs
        self.settings = settings
        self.pad_id = pad_id
        self.hidden_size = hidden_size
        self.size = settings.model.global_batch_size
        self.batches = validation_batches(len(pairs.epoch), self.size) if name != "train" else []
        self.num_steps = num_steps if name == "train" else len(self.batches)
        self.ahead: tuple[int, Future[StepBatch]] | None = None
        self.given = -1

    def __getitem__(self, step: int) -> StepBatch:
        ahead, self.ahead, self.given = self.ahead, None, step
        return ahead[1].result() if ahead and ahead[0] == step else self.build(step)

    def build_ahead(self) -> None:
        """Have the thread build the step behind the one that was given last, if there is one."""
        step = self.given + 1
        self.ahead = (step, _BUILDER.submit(self.build, step)) if step < self.num_steps else None

    def stop(self) -> None:
        """Wait until the thread is done with it."""
        if self.ahead and not self.ahead[1].cancel():
            wait([self.ahead[1]])

    def build(self, step: int) -> StepBatch:
        """Plan a step and build this rank's streams of it."""
        if self.name == "train":
            pairs = pairs_of_step(self.settings.trainer.seed, step, self.size, self.pairs.epoch)
        else:
            pairs = self.pairs.epoch.pairs_at(self.batches[step])
        plan = plan_step(self.settings, self.pairs.parts(pairs), self.hidden_size)
        rank = parallel_state.get_data_parallel_rank()
        return StepBatch(
            name=self.name,
            streams=build_streams(plan, self.pairs, pairs, rank, self.pad_id),
            num_pairs=len(pairs),
            num_tokens=int(plan.sizes.tokens.sum()),
            num_streams=sum(map(len, plan.ranks)),
            num_attended=int(plan.sizes.attended.sum()),
        )


class StepsFrom(Sampler[int]):
    """Step numbers from `start` on; its length is that of the whole run, as Lightning expects of a resumed one."""

    def __init__(self, start: int, num_steps: int) -> None:
        self.start = start
        self.num_steps = num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.num_steps))

    def __len__(self) -> int:
        return self.num_steps


class PairSampler(DataSampler):
    """Hands each step's streams to Megatron's schedule and keeps the sums that come back.

    Attributes:
        sums_SM: this rank's part of the sums of nemo_bt.metrics since they were last taken, by set name.
        last: the step that runs or ran last.
        skipped_steps: steps that were left out, with those before a restart.
        waited_s: seconds that this rank waited for training data since somebody set it to 0.
        datasets: where the steps come from, by set name.
        num_sums: numbers of a source's sums, M.
    """

    dataloader_type = "single"

    def __init__(
        self,
        tokens_per_stream: int,
        num_sources: Mapping[str, int],
        num_attributes: int = 0,
        has_lists: bool = False,
    ) -> None:
        self.tokens_per_stream = tokens_per_stream
        self.num_sums = num_sums(num_attributes, has_lists)
        self.num_sources = num_sources
        self.sums_SM: dict[str, Tensor] = {}
        self.last: StepBatch | None = None
        self.skipped_steps, self.waited_s = 0, 0.0
        self.datasets: dict[str, StepDataset] = {}
        self._pending: tuple[str, Tensor] | None = None

    def setup(self, global_rank: int) -> None:
        """Set nothing up: the number of micro-batches comes with each step."""

    def transform_dataloader(self, dataloader: DataLoader[Any], consumed_samples: int = 0) -> DataLoader[Any]:
        """Keep the loader, which yields steps of this rank already."""
        return dataloader

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Replace Lightning's iterator over steps by one over this step's streams."""
        start_s = time.perf_counter()
        self.last, _, _ = next(step.data)
        self.waited_s += time.perf_counter() - start_s if self.last.name == "train" else 0.0
        return dataclasses.replace(
            step,
            data=self._streams(self.last),
            num_microbatches=len(self.last.streams),
            micro_batch_size=1,
            seq_length=self.last.streams[0].tokens_1T.shape[1],  # the same for all of a step in a pipeline
        )

    def _streams(self, batch: StepBatch) -> Iterator[PairStream]:
        """Hand the streams over; before the last one, while a GPU has those before it to do, the next step is begun."""
        *before, last = batch.streams
        yield from before
        self.datasets[batch.name].build_ahead()
        yield last

    def on_megatron_step_end(self, step: MegatronStep, microbatch_outputs: list[Tensor]) -> None:
        """Note the step's sums; only one of the ranks with the same rewards, on the last pipeline stage, counts."""
        is_first = parallel_state.get_tensor_model_parallel_rank() == parallel_state.get_context_parallel_rank() == 0
        assert self.last is not None  # the step that ends here
        if microbatch_outputs and is_first:
            self._pending = self.last.name, torch.stack(microbatch_outputs).sum(0)
        if self.last.name != "train":
            self.settle(counts=True)

    def settle(self, counts: bool) -> None:
        """Add up the sums of the last step, or leave them out: NonFiniteGuard decides on a training step."""
        self.skipped_steps += not counts
        if self._pending and counts:
            self.add_sums(*self._pending)
        self._pending = None

    def add_sums(self, name: str, sums_SM: Tensor) -> None:
        """Add to the sums of a set."""
        before = self.sums_SM.get(name)
        self.sums_SM[name] = sums_SM if before is None else before.to(sums_SM.device) + sums_SM

    def take_sums(self, names: Sequence[str], device: torch.device) -> list[list[list[float]]]:
        """Add up the named sets' sums since the last call, by source: one all-reduce over all ranks, on each."""
        sizes = [self.num_sources[name] for name in names]
        none = [torch.zeros(size, self.num_sums, dtype=torch.float64) for size in sizes]
        own = [self.sums_SM.pop(name, zeros_SM).to(device) for name, zeros_SM in zip(names, none, strict=True)]
        sums = torch.cat(own)
        torch.distributed.all_reduce(sums)
        return [part.tolist() for part in sums.split(sizes)]


class PairDataModule(pl.LightningDataModule):
    """Train and validation loaders for NeMo's Trainer."""

    trainer: Any  # NeMo's, whose model has a config

    def __init__(
        self,
        train: PairSet | None,
        validation: Mapping[str, PairSet],
        settings: Settings,
        num_steps: int,
        pad_id: int,
        num_attributes: int = 0,
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.settings = settings
        self.num_steps = num_steps
        self.pad_id = pad_id
        sets = {**validation} | ({"train": train} if train else {})
        num_sources = {name: len(pairs.sources) for name, pairs in sets.items()}
        budget, has_lists = settings.model.data.tokens_per_micro_batch, settings.model.loss.takes != "pairs"
        self.data_sampler = PairSampler(budget, num_sources, num_attributes, has_lists)

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Load steps from the one that the checkpoint stopped at."""
        assert self.train is not None
        dataset = self._dataset("train", self.train)
        return DataLoader(dataset, batch_size=None, sampler=StepsFrom(self.trainer.global_step, self.num_steps))

    def val_dataloader(self) -> list[DataLoader[StepBatch]]:
        """Give one loader for each validation set, which has each pair once."""
        datasets = [self._dataset(name, pairs) for name, pairs in self.validation.items()]
        return [DataLoader(d, batch_size=None, sampler=StepsFrom(0, len(d.batches))) for d in datasets]

    def _dataset(self, name: str, pairs: PairSet) -> StepDataset:
        hidden_size = self.trainer.lightning_module.config.hidden_size
        dataset = StepDataset(name, pairs, self.settings, self.pad_id, hidden_size, self.num_steps)
        self.data_sampler.datasets[name] = dataset
        return dataset

    def teardown(self, stage: str) -> None:
        """Leave nothing running that asks for ranks which are no more."""
        for dataset in self.data_sampler.datasets.values():
            dataset.stop()
