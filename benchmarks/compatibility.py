"""What was tried with each real model and vocabulary: token ids, BOS, padding, the scored token, pairs that are kept.

python -m benchmarks.compatibility --data folder/with/hh_val.parquet

It takes what `make models` has prepared and what `make test-real` has left in runs/test-real.xml, and writes
docs/reference/compatibility.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nemo_bt.data.formats.responses import Chat
from nemo_bt.data.read.drop_report import DropReport, RowError
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from tests.support.preferences import messages
from tests.support.real_catalog import BY_NAME
from tests.support.real_models import models_folder
from tests.support.sources import open_set
from tests.support.token_truth import DAY, renderer_of, true_ids

_PAGE = Path(__file__).parents[1] / "docs" / "reference" / "compatibility.md"
_TRIED = Path("runs/test-real.xml")
_ROWS = 64
_HEAD = f"""# Models and vocabularies that were tried

Each row is a tokenizer as its model publishes it, with real weights where that is said. *ids*: conversations of
{_ROWS} pairs of hh-rlhf whose token ids equal transformers' `apply_chat_template`, of all. *pairs*: pairs that are
kept; the others are named by their reason. *pad*: what `model.tokenizer.pad_token=auto` takes. *BOS*: who writes it.
*scored at*: the last token of a conversation, whose output is the reward. This page is written by
`python -m benchmarks.compatibility` after `make test-real`.

| model | weights | ids | pairs | pad | BOS | system message | scored at |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    missing = [name for name in BY_NAME if not (models_folder() / name).is_dir()]
    if missing:
        sys.exit(f"not there: {', '.join(missing)}. Run make models first.")
    lines = [_HEAD]
    for name in BY_NAME:
        lines.append(_row(name, args.data / "hh_val.parquet"))
        print(lines[-1], flush=True)
    _PAGE.write_text("\n".join([*lines, "", *_tried(_TRIED)]) + "\n")


def _tried(report: Path) -> list[str]:
    """Make a table of the tests with real weights, a row each and a column for each model."""
    if not report.is_file():
        sys.exit(f"not there: {report}. Run make test-real first.")
    found: dict[str, dict[str, str]] = {}
    models = [name for name, model in BY_NAME.items() if model.config]
    for case in ElementTree.parse(report).iter("testcase"):
        test, _, parameters = case.attrib["name"].removeprefix("test_").rstrip("]").partition("[")
        model = next(name for name in models if parameters.startswith(name))
        what = " ".join([test.replace("_", " "), parameters.removeprefix(model).lstrip("-")]).strip()
        skipped = case.find("skipped")
        failed = any(case.find(kind) is not None for kind in ("failure", "error"))
        result = "failed" if failed else f"not tried: {skipped.attrib['message']}" if skipped is not None else "yes"
        found.setdefault(what, {})[model] = result
    lines = [
        "## Real weights, by `make test-real`",
        "",
        f"| what | {' | '.join(models)} |",
        "|---|" + "---|" * len(models),
    ]
    return lines + [f"| {what} | {' | '.join(of.get(model, '') for model in models)} |" for what, of in found.items()]


def _row(name: str, file: Path) -> str:
    model = BY_NAME[name]
    folder = str(models_folder() / name)
    renderer = renderer_of(folder, model.unused)
    tokenizer = renderer.tokenizer
    rows = pq.read_table(file).slice(0, _ROWS).to_pylist()
    dialogs = [_messages(row[side]) for row in rows for side in ("chosen", "rejected")]
    texts = renderer.texts([Chat(dialog) for dialog in dialogs])
    (found,) = renderer.ids([texts], [True])
    same = sum(
        ids.tolist() == true_ids(tokenizer, dialog, model.adds_bos) for ids, dialog in zip(found, dialogs, strict=True)
    )
    (system,) = renderer.texts([Chat([{"role": "system", "content": "Be kind."}, *messages("a", "b")])])
    in_template = tokenizer.bos_token is not None and str(texts[0]).startswith(tokenizer.bos_token)
    bos = " and ".join(["the tokenizer"] * renderer.adds_bos + ["the template"] * in_template) or "nobody"
    cells = [
        name,
        "real" if model.config else "none: the vocabulary alone",
        f"{same} of {len(dialogs)}",
        _kept(tokenizer, str(file)),
        _auto(folder, model.unused),
        bos,
        "refused by the template" if isinstance(system, RowError) else "taken",
        f"`{tokenizer.decode([int(found[0][-1])])!r}`",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _auto(folder: str, named: str) -> str:
    try:
        return f"`{load_tokenizer(folder, 'auto').pad_token}`"
    except UserError:
        return f"no token is unused; `{named}` was named"


def _messages(transcript: str) -> list[dict[str, Any]]:
    parts = re.split(r"\n\n(Human|Assistant):", transcript)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _kept(tokenizer: Any, file: str) -> str:
    loose = ("model.data.max_bad_fraction=1", "model.data.max_drop_fraction=1", f"model.data.chat_template_date={DAY}")
    report: DropReport = open_set(file, tokenizer, *loose).accounts[0]
    reasons = "; ".join(f"{count} {reason}" for reason, count in report.counted())
    return f"{report.num_kept} of {report.num_pairs}" + (f" ({reasons})" if reasons else "")


if __name__ == "__main__":
    main()
