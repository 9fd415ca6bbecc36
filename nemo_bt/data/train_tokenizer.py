"""Train a small byte-level BPE tokenizer on preference files: `python -m nemo_bt.data.train_tokenizer`.

For models trained from scratch: the quickstart, tests and demonstrations. A pretrained model brings its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from nemo_bt.config.data import SourceSettings
from nemo_bt.data.formats.detect import detect, parsed
from nemo_bt.data.formats.responses import Side, Text
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import find_files
from nemo_bt.data.read.rows import first_rows, read_chunks

PAD = "<|pad|>"
BOS = "<|bos|>"
EOS = "<|end|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Write a tokenizer folder with pad, bos and eos tokens of their own and a chat template.

    Args:
        texts: what the vocabulary is learnt from.
        vocab_size: largest vocabulary; 256 bytes and 3 special tokens are always in it.
        folder: created; loads with `transformers.AutoTokenizer`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def texts_of(paths: Sequence[str]) -> Iterable[str]:
    """Give every text and every message's content in preference files of any format; bad rows are left out.

    Raises:
        UserError: a path has no files, or a file no known format.
    """
    for path in paths:
        source = SourceSettings(path=[path])
        for file in find_files(source, "--input"):
            form = detect(file.name, first_rows(file, None), source).name
            for chunk in read_chunks(file, None, None):
                for row in chunk.rows():
                    try:
                        sides = parsed(row, 0, form, source, False).sides
                    except RowError:
                        continue
                    yield from (text for side in sides for text in _contents(side))


def _contents(side: Side) -> list[str]:
    return (
        [side.prompt + side.response]
        if isinstance(side, Text)
        else [message["content"] or "" for message in side.messages]
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", nargs="+", required=True, help="preference files")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--output", type=Path, required=True, help="tokenizer folder to write")
    args = parser.parse_args()
    train_tokenizer(texts_of(args.input), args.vocab_size, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
