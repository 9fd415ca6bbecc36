"""Lists of K answers beside the same answers as pairs and alone: answers per second, forward and backward, in turns.

python -m benchmarks.lists --data folder/with/alpaca_eval_train.parquet
python -m benchmarks.lists --short

A list computes its prompt once. As K/2 pairs the prompt is computed K/2 times, and with each answer alone K times, as
trainers do that share nothing. With p tokens of a prompt and r of an answer the bound of list over alone is
(K p + K r) / (p + K r) where attention costs nothing. Generated lists have one p and r; AlpacaEval's are the answers of
K models to an instruction, ranked by its annotations. --short looks for the prompt from which on sharing pays: two
answers behind one of a few tokens, beside each with a prompt of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks import small_llama
from benchmarks.results_file import Figure, write_results
from benchmarks.small_llama import SMALL, hf_config_of
from nemo_bt.batching.stream import Comparison, PairStream, TokenGroup, build_stream
from nemo_bt.config.loss import LossSettings
from nemo_bt.losses.choose import loss_function
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.training.nemo_import import import_nemo

_SIZES = (2, 4, 8, 16)
_BUDGET_TOKENS = 4096
_ANSWERS = 32
_GENERATED = {"long prompts": (512, 64), "even": (192, 192)}
"""Tokens of a prompt and of an answer."""
_SHORT = [(prompt, answer) for answer in (64, 256) for prompt in (1, 4, 16, 64)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path)
    what.add_argument("--short", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/lists"))
    parser.add_argument("--host-kind", default=f"cpu{os.cpu_count()}")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    if args.short:
        name, command, sizes, others = "sharing", "python -m benchmarks.lists --short", _SIZES[:1], ("alone",)
        cases = {f"p{p}_r{r}": generated(p, r) for p, r in _SHORT}
    else:
        name, command, sizes, others = "lists", "python -m benchmarks.lists --data data", _SIZES, ("pairs", "alone")
        cases = {f"{kind.replace(' ', '_')}_p{p}_r{r}": generated(p, r) for kind, (p, r) in _GENERATED.items()}
        cases["alpaca_eval"] = annotated(args.data, args.folder)
    figures = []
    with small_model() as module:
        for case, lists_of in cases.items():
            for num_answers in sizes:
                start = f"{name}/{case}/K{num_answers}"
                figures += measured(start, module, lists_of(num_answers), others, args.turns)
    print(f"wrote {write_results(name, args.host_kind, command, figures)}")


def measured(start: str, module: Any, lists: Sequence[TokenGroup], others: Sequence[str], turns: int) -> list[Figure]:
    """Time the forms in turns, and give the ratios of a list's answers per second to those of the others."""
    ranking, pairwise = (loss_function(LossSettings(kind=kind)) for kind in ("plackett_luce", "bradley_terry"))
    forms = {
        "list": (streams_of(lists), ranking),
        "pairs": (streams_of([pair for one in lists for pair in as_pairs(one)]), pairwise),
        "alone": (streams_of([alone for one in lists for alone in as_alone(one)]), None),
    }
    forms = {name: forms[name] for name in ("list", *others)}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 1):
        for name, (streams, loss_of) in sorted(forms.items(), key=lambda item: (turn + len(item[0])) % 3):
            began_s = time.perf_counter()
            step(module, streams, loss_of)
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - began_s)
    tokens = {name: sum(one.num_real_tokens for one in streams) for name, (streams, _) in forms.items()}
    figures = []
    for other in others:
        ratios = [theirs / ours for theirs, ours in zip(seconds[other], seconds["list"], strict=True)]
        figures.append(Figure(f"{start}/speed_over_{other}", median(ratios), "ratio", min(ratios), max(ratios)))
        bound = tokens[other] / tokens["list"]
        figures.append(Figure(f"{start}/tokens_of_{other}_over_list", bound, "ratio", bound, bound))
    return figures


def step(module: Any, streams: Sequence[PairStream], loss_of: Callable[..., Tensor] | None) -> None:
    """Run forward and backward over streams; answers that stand alone have the sum of their rewards for a loss."""
    from nemo_bt.model.loss_reduction import rewarded

    for stream in streams:
        reward_C = module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
        loss = loss_of(rewarded(stream, reward_C, ())) if loss_of else reward_C
        loss.sum().backward()
    for parameter in module.parameters():
        parameter.grad = None


def streams_of(groups: Sequence[TokenGroup]) -> list[PairStream]:
    """Fill streams with groups in their order."""
    streams: list[list[TokenGroup]] = [[]]
    for group in groups:
        if sum(one.num_tokens for one in streams[-1]) + group.num_tokens > _BUDGET_TOKENS and streams[-1]:
            streams.append([])
        streams[-1].append(group)
    return [build_stream(some, pad_id=0) for some in streams]


def as_pairs(group: TokenGroup) -> list[TokenGroup]:
    """Give the first answer with the second, the third with the fourth, and so on, each with the prompt."""
    both = zip(group.continuations[0::2], group.continuations[1::2], strict=True)
    return [TokenGroup(group.prefix, pair, (Comparison(),)) for pair in both]


def as_alone(group: TokenGroup) -> list[TokenGroup]:
    """Give each answer behind a prompt of its own."""
    return [TokenGroup(group.prefix[:0], (np.concatenate([group.prefix, one]),)) for one in group.continuations]


def ranked(prefix: Any, answers: Sequence[Any]) -> TokenGroup:
    """Make one list of answers, the best first."""
    return TokenGroup(prefix, tuple(answers), (Comparison(sides=tuple(range(len(answers)))),))


def generated(prompt_tokens: int, answer_tokens: int) -> Callable[[int], list[TokenGroup]]:
    """Draw lists of random tokens, 32 answers in all."""

    def lists_of(num_answers: int) -> list[TokenGroup]:
        draw = np.random.default_rng(num_answers)

        def ids(number: int) -> Any:
            return draw.integers(1, SMALL.vocab, number).astype(np.int32)

        lists = range(_ANSWERS // num_answers)
        return [ranked(ids(prompt_tokens), [ids(answer_tokens) for _ in range(num_answers)]) for _ in lists]

    return lists_of


def annotated(data: Path, folder: Path) -> Callable[[int], list[TokenGroup]]:
    """Read AlpacaEval's answers to an instruction as ranked lists."""
    small_llama.make_tokenizer(data, folder / "tokenizer")
    small_llama.make_model(SMALL, folder / "tokenizer", folder / "model", seed=1)
    file = folder / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_by_instruction(data / "alpaca_eval_train.parquet")))
    overrides = small_llama.training_overrides(folder / "model", file, folder / "run", 1)
    kept = ["model.loss.kind=plackett_luce", "model.data.max_bad_fraction=1", "model.data.tokens_per_micro_batch=65536"]
    lists = small_llama.open_pairs([*overrides, *kept], folder / "model")
    groups = [lists.groups([number])[0] for number in range(len(lists.epoch))]

    def lists_of(num_answers: int) -> list[TokenGroup]:
        cut = [ranked(group.prefix, group.continuations[:num_answers]) for group in groups]
        fit = [one for one in cut if len(one.continuations) == num_answers and one.num_tokens <= _BUDGET_TOKENS]
        return fit[: _ANSWERS // num_answers]

    return lists_of


def rows_by_instruction(file: Path) -> list[dict[str, Any]]:
    """Put the answers to each instruction together, with how surely each beats the baseline that all stand against.

    The baseline is the answer that is in most of an instruction's pairs; it has the score 0.
    """
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(file).to_pylist():
        by_prompt.setdefault(json.dumps(row["chosen"][:-1]), []).append(row)
    rows = []
    for prompt, pairs in by_prompt.items():
        said = Counter(pair[side][-1]["content"] for pair in pairs for side in ("chosen", "rejected"))
        baseline, _ = said.most_common(1)[0]
        scores = {baseline: 0.0}
        for pair in pairs:
            for side, sign in (("chosen", 1), ("rejected", -1)):
                scores.setdefault(pair[side][-1]["content"], sign * pair["margin"])
        answers = [[{"role": "assistant", "content": text}] for text in scores]
        rows.append({"prompt": json.loads(prompt), "completions": answers, "scores": list(scores.values())})
    return rows


@contextmanager
def small_model() -> Iterator[Any]:
    """Make a 4 x 256 Llama with random weights in fp32, on one rank of a CPU."""
    import_nemo(on_gpu=False)
    from megatron.core import parallel_state, tensor_parallel

    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    architecture = architecture_of(hf_config_of(SMALL).to_dict())
    model = RewardModel(reward_config(architecture, seq_length=small_llama.MAX_LENGTH_TOKENS), LossSettings())
    model._trainer = None
    model.configure_model()
    try:
        yield model.module
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
