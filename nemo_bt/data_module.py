"""Pair tables -> NeMo's Trainer: one Lightning batch is one optimizer step, a list of streams for this rank."""

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

from nemo_bt.data.pairs import PairTable
from nemo_bt.metrics import SUMS
from nemo_bt.packing import pairs_of_step, plan_streams, validation_batches
from nemo_bt.settings import Settings
from nemo_bt.stream import PairStream, build_stream


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of one step.

    Args:
        name: train, or the validation set's name.
        streams: the micro-batches of this data-parallel rank.
        num_pairs: pairs of the step over all ranks.
        num_tokens: real tokens of the step over all ranks.
        num_streams: streams of the step over all ranks.
    """

    name: str
    streams: list[PairStream]
    num_pairs: int
    num_tokens: int
    num_streams: int


class StepDataset(Dataset[StepBatch]):
    """Step number -> the streams of that step on this data-parallel rank."""

    def __init__(self, name: str, table: PairTable, settings: Settings, pad_id: int, hidden_size: int) -> None:
        self.name, self.table, self.settings = name, table, settings
        self.pad_id, self.hidden_size = pad_id, hidden_size
        model = settings.model
        self.batches = validation_batches(len(table), model.global_batch_size) if name != "train" else None

    def __getitem__(self, step: int) -> StepBatch:
        model, size = self.settings.model, self.settings.model.global_batch_size
        if self.batches is None:
            pairs: Sequence[int] = pairs_of_step(self.settings.trainer.seed, step, size, len(self.table))
        else:
            pairs = self.batches[step]
        sizes = self.table.sizes(pairs, self.hidden_size)
        ranks = plan_streams(sizes, model.data.tokens_per_micro_batch, parallel_state.get_data_parallel_world_size())
        multiple_of = model.tensor_model_parallel_size if model.sequence_parallel else 1
        mine = ranks[parallel_state.get_data_parallel_rank()]
        streams = [
            build_stream([self.table.group(pairs[i]) for i in stream], self.pad_id, multiple_of) for stream in mine
        ]
        return StepBatch(self.name, streams, len(pairs), int(sizes.tokens.sum()), sum(map(len, ranks)))


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
        sums_M: sums of nemo_bt.metrics by set name since they were last taken, this rank's part only.
        last: the step that runs or ran last.
    """

    dataloader_type = "single"

    def __init__(self, tokens_per_stream: int) -> None:
        self.tokens_per_stream = tokens_per_stream
        self.sums_M: dict[str, Tensor] = {}
        self.last: StepBatch | None = None

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
            seq_length=self.tokens_per_stream,
        )

    def on_megatron_step_end(self, step: MegatronStep, microbatch_outputs: list[Tensor]) -> None:
        """Add up; only one tensor-parallel rank of the last pipeline stage counts."""
        if microbatch_outputs and parallel_state.get_tensor_model_parallel_rank() == 0:
            name = self.last.name
            sums_M = torch.stack(microbatch_outputs).sum(0)
            self.sums_M[name] = self.sums_M[name] + sums_M if name in self.sums_M else sums_M

    def take_sums(self, names: Sequence[str], device: torch.device) -> list[list[float]]:
        """Sums over all ranks of the named sets since the last call, in one all-reduce. Called on every rank."""
        zeros_M = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        sums = torch.stack([self.sums_M.pop(name, zeros_M) for name in names])
        torch.distributed.all_reduce(sums)
        return sums.tolist()


class PairDataModule(pl.LightningDataModule):
    """Train and validation loaders for NeMo's Trainer."""

    def __init__(
        self,
        train: PairTable,
        validation: Mapping[str, PairTable],
        settings: Settings,
        num_steps: int,
        pad_id: int,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.settings = train, validation, settings
        self.num_steps, self.pad_id = num_steps, pad_id
        self.data_sampler = PairSampler(settings.model.data.tokens_per_micro_batch)

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Steps from the one that the checkpoint stopped at."""
        dataset = self._dataset("train", self.train)
        return DataLoader(dataset, batch_size=None, sampler=StepsFrom(self.trainer.global_step, self.num_steps))

    def val_dataloader(self) -> list[DataLoader[StepBatch]]:
        """One loader per validation set, each pair once."""
        datasets = [self._dataset(name, table) for name, table in self.validation.items()]
        return [DataLoader(d, batch_size=None, sampler=StepsFrom(0, len(d.batches))) for d in datasets]

    def _dataset(self, name: str, table: PairTable) -> StepDataset:
        hidden_size = self.trainer.lightning_module.config.hidden_size
        return StepDataset(name, table, self.settings, self.pad_id, hidden_size)
