"""Pair sets -> NeMo's Trainer: one Lightning batch is one optimizer step, a list of streams for this rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
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
from nemo_bt.metrics import NUM_SUMS
from nemo_bt.training.steps.plan import build_streams, plan_step


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
    """Step number -> the streams of that step on this data-parallel rank."""

    def __init__(self, name: str, pairs: PairSet, settings: Settings, pad_id: int, hidden_size: int) -> None:
        self.name, self.pairs, self.settings = name, pairs, settings
        self.pad_id, self.hidden_size = pad_id, hidden_size
        size = settings.model.global_batch_size
        self.batches = validation_batches(len(pairs.epoch), size) if name != "train" else None

    def __getitem__(self, step: int) -> StepBatch:
        if self.batches is None:
            size = self.settings.model.global_batch_size
            pairs = pairs_of_step(self.settings.trainer.seed, step, size, self.pairs.epoch)
        else:
            pairs = self.pairs.epoch.pair_E[self.batches[step]]
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
    """Step numbers from `start` on; its length is that of the whole run, as Lightning counts on resuming."""

    def __init__(self, start: int, num_steps: int) -> None:
        self.start, self.num_steps = start, num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.num_steps))

    def __len__(self) -> int:
        return self.num_steps


class PairSampler(DataSampler):
    """Hands each step's streams to Megatron's schedule and keeps the sums that come back.

    Attributes:
        sums_SM: sums of nemo_bt.metrics by set name since they were last taken, this rank's part only.
        last: the step that runs or ran last.
        skipped_steps: that were left out, in this process.
    """

    dataloader_type = "single"

    def __init__(self, tokens_per_stream: int, num_sources: Mapping[str, int]) -> None:
        self.tokens_per_stream, self.num_sources = tokens_per_stream, num_sources
        self.sums_SM: dict[str, Tensor] = {}
        self.last: StepBatch | None = None
        self.skipped_steps = 0
        self._pending: tuple[str, Tensor] | None = None

    def setup(self, global_rank: int) -> None:
        """Nothing to set up: the number of micro-batches comes with each step."""

    def transform_dataloader(self, dataloader: DataLoader[Any], consumed_samples: int = 0) -> DataLoader[Any]:
        """The loader yields steps of this rank already."""
        return dataloader

    def on_megatron_step_start(self, step: MegatronStep) -> MegatronStep:
        """Replace Lightning's iterator over steps by one over this step's streams."""
        self.last, _, _ = next(step.data)
        return dataclasses.replace(
            step,
            data=iter(self.last.streams),
            num_microbatches=len(self.last.streams),
            micro_batch_size=1,
            seq_length=self.last.streams[0].tokens_1T.shape[1],  # the same for all of a step in a pipeline
        )

    def on_megatron_step_end(self, step: MegatronStep, microbatch_outputs: list[Tensor]) -> None:
        """Add up; of the ranks that have the same rewards, on the last pipeline stage, only one counts."""
        is_first = parallel_state.get_tensor_model_parallel_rank() == parallel_state.get_context_parallel_rank() == 0
        if microbatch_outputs and is_first:
            name = self.last.name
            sums_SM = torch.stack(microbatch_outputs).sum(0)
            self._pending = name, sums_SM
        if self.last and self.last.name != "train":
            self.settle(counts=True)

    def settle(self, counts: bool) -> None:
        """Add up what the last step brought, or leave it out: a training step waits for its verdict."""
        self.skipped_steps += not counts
        if self._pending and counts:
            self.add_sums(*self._pending)
        self._pending = None

    def add_sums(self, name: str, sums_SM: Tensor) -> None:
        """Add to the sums of a set."""
        before = self.sums_SM.get(name)
        self.sums_SM[name] = sums_SM if before is None else before.to(sums_SM.device) + sums_SM

    def take_sums(self, names: Sequence[str], device: torch.device) -> list[list[list[float]]]:
        """Sums over all ranks of the named sets, by source, since the last call: one all-reduce, on every rank."""
        sizes = [self.num_sources[name] for name in names]
        none = [torch.zeros(size, NUM_SUMS, dtype=torch.float64) for size in sizes]
        own = [self.sums_SM.pop(name, zeros_SM).to(device) for name, zeros_SM in zip(names, none, strict=True)]
        sums = torch.cat(own)
        torch.distributed.all_reduce(sums)
        return [part.tolist() for part in sums.split(sizes)]


class PairDataModule(pl.LightningDataModule):
    """Train and validation loaders for NeMo's Trainer."""

    def __init__(
        self,
        train: PairSet | None,
        validation: Mapping[str, PairSet],
        settings: Settings,
        num_steps: int,
        pad_id: int,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.settings = train, validation, settings
        self.num_steps, self.pad_id = num_steps, pad_id
        sets = {**validation} | ({"train": train} if train else {})
        num_sources = {name: len(pairs.sources) for name, pairs in sets.items()}
        self.data_sampler = PairSampler(settings.model.data.tokens_per_micro_batch, num_sources)

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Steps from the one that the checkpoint stopped at."""
        dataset = self._dataset("train", self.train)
        return DataLoader(dataset, batch_size=None, sampler=StepsFrom(self.trainer.global_step, self.num_steps))

    def val_dataloader(self) -> list[DataLoader[StepBatch]]:
        """One loader per validation set, each pair once."""
        datasets = [self._dataset(name, pairs) for name, pairs in self.validation.items()]
        return [DataLoader(d, batch_size=None, sampler=StepsFrom(0, len(d.batches))) for d in datasets]

    def _dataset(self, name: str, pairs: PairSet) -> StepDataset:
        hidden_size = self.trainer.lightning_module.config.hidden_size
        return StepDataset(name, pairs, self.settings, self.pad_id, hidden_size)
