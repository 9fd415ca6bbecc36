"""The options of the converters: it imports nothing, so that help waits for nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

_PAD_TOKEN = "a token of the vocabulary to pad with, where the tokenizer names none"


def import_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of hf_to_nemo."""
    parser.add_argument("--input", required=True, help="Hugging Face folder, or organisation/model@revision of the hub")
    parser.add_argument("--output", required=True, type=Path, help="the .nemo to write")
    parser.add_argument("--seed", type=int, default=1234, help="of the head, where the input has none")
    parser.add_argument("--head-row", type=int, help="of a classifier with several labels: the one that is the reward")
    parser.add_argument("--pack", action="store_true", help="write one file, a tar, instead of a directory")
    return _common(parser)


def export_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of nemo_to_hf."""
    parser.add_argument("--input", required=True, help="a .nemo directory or file")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer folder; without it, the one in the .nemo")
    parser.add_argument("--pad-token", help=_PAD_TOKEN)
    parser.add_argument("--max-shard-gb", type=float, default=1.0, help="largest safetensors file; held in memory")
    parser.add_argument("--adapters", action="store_true", help="of a run with adapters: these alone, as PEFT's folder")
    parser.add_argument("--combined", action="store_true", help="of a model with attributes: one reward, their sum")
    parser.add_argument("--attribute-weights", metavar="NAME=W,.. or FILE", help="in the place of the model's own")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload to organisation/model afterwards")
    parser.add_argument("--private", action="store_true", help="a repository that --push-to-hub makes is private")
    parser.add_argument("--to-causal-lm", action="store_true", help=argparse.SUPPRESS)
    return _common(parser)


def average_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of average."""
    models = "Hugging Face folders, models of the hub, or .nemo; with --last the log directory of a run"
    parser.add_argument("models", nargs="+", metavar="model", help=models)
    parser.add_argument("--output", required=True, type=Path, help="the .nemo to write, or else a Hugging Face folder")
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one a model, with a sum of 1; without them all are alike"
    )
    parser.add_argument("--last", type=int, metavar="N", help="average the last N whole checkpoints of one run")
    parser.add_argument("--pad-token", help=_PAD_TOKEN)
    return _with_dtype(parser)


def _common(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = _with_dtype(parser)
    parser.add_argument("--no-check", action="store_true", help="do not compare the rewards of the two models")
    return parser


def _with_dtype(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    dtypes = ("bf16", "fp16", "fp32")
    parser.add_argument("--dtype", choices=dtypes, help="cast the weights; without it every tensor keeps its dtype")
    return parser
