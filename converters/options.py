"""The options of both converters: it imports nothing, so that help waits for nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    parser.add_argument("--pad-token", help="a token of the vocabulary to pad with, where the tokenizer names none")
    parser.add_argument("--max-shard-gb", type=float, default=1.0, help="largest safetensors file; held in memory")
    parser.add_argument("--adapters", action="store_true", help="of a run with adapters: these alone, as PEFT's folder")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload to organisation/model afterwards")
    parser.add_argument("--private", action="store_true", help="a repository that --push-to-hub makes is private")
    parser.add_argument("--to-causal-lm", action="store_true", help=argparse.SUPPRESS)
    return _common(parser)


def _common(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    dtypes = ("bf16", "fp16", "fp32")
    parser.add_argument("--dtype", choices=dtypes, help="cast the weights; without it every tensor keeps its dtype")
    parser.add_argument("--no-check", action="store_true", help="do not compare the rewards of the two models")
    return parser
