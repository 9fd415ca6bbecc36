"""Rules about the source itself: sizes, import boundaries, and the README's file tree."""

import ast
import re
import subprocess
import sys

import pytest

from tests.runs import REPO

SOURCES = [
    path
    for folder in ("nemo_bt", "conf", "converters", "tests", "benchmarks")
    for path in (REPO / folder).rglob("*.py")
]
PURE = [
    "errors", "settings", "checks", "layout", "config", "packing", "stream", "loss", "metrics", "checkpoints", "launch",
    "cli", "terminal", "train", "cpu", "quickstart", "architecture", "families", "origin", "nemo_file", "nemo_context",
    "checkpoint_facts", "flops", "plan.shape", "plan.parameters", "plan.state", "plan.schedule", "plan.activations",
    "plan.stream_traffic", "plan.traffic", "plan.settings", "plan.checks", "plan.streams", "plan.memory", "plan.time",
    "plan.search", "plan.report", "plan.command", "step", "ranges", "manifest", "keep", "run_settings", "status",
    "events", "stopping", "spikes", "failure", "log_dir", "metrics_log", "prepare", "imports",
    "model.held_rows", "model.segments",
    "scorer", "scoring.settings", "scoring.checks", "scoring.rows", "scoring.reading", "scoring.groups",
    "scoring.batch", "scoring.model", "scoring.parts", "scoring.command", "evaluation.settings", "evaluation.checks",
    "evaluation.accuracy", "evaluation.rewardbench", "evaluation.rewardbench2", "evaluation.rm_bench",
    "evaluation.measure", "evaluation.tables", "evaluation.label", "evaluation.command",
    "device", "precision", "gpu.toolchain", "gpu.wheels", "gpu.install", "gpu.closure", "gpu.fetch", "gpu.parts",
    "gpu.pack", "gpu.unpack",
    "arguments", "as_rank", "trackers", "reward_scale", "node_facts", "report.settings", "report.conversations",
    "report.rewards", "report.numbers", "report.curves", "report.facts", "report.pictures", "report.page",
    "report.command",
    "serving.settings", "serving.protocol", "serving.batcher", "serving.metrics", "serving.app", "serving.command",
    "weights.names", "weights.fused", "weights.convert", "weights.check", "weights.head", "weights.adapters",
    "weights.source", "weights.safetensors_folder", "weights.torch_dist", "weights.torch_dist_writer",
    "epoch", "data.settings", "data.sources", "data.files", "data.rows", "data.account", "data.values", "data.choices",
    "data.json_array", "data.shared_ids",
    "data.formats", "data.published", "data.detect", "data.construct", "data.tokenizer", "data.render", "data.guards",
    "data.length", "data.layout", "data.encode", "data.custom", "data.build", "data.workers", "data.cache",
    "data.mixture", "data.pairs", "data.load", "data.inspect", "data.synthetic", "data.train_tokenizer",
]  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_files_and_functions_stay_small(path: object) -> None:
    text = path.read_text()
    assert text.count("\n") <= 250
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno + 1 > 60} == {}


def test_pure_modules_import_neither_nemo_nor_megatron() -> None:
    code = (
        "import sys\n"
        "for blocked in ('nemo', 'megatron', 'lightning'): sys.modules[blocked] = None\n"
        + "".join(f"import nemo_bt.{name}\n" for name in PURE)
        + "assert 'transformers' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_importing_cpu_changes_nothing() -> None:
    code = (
        "import torch\nbefore = dict(vars(torch)), dict(vars(torch.cuda)), dict(vars(torch.Tensor))\n"
        "import nemo_bt.cpu\nafter = dict(vars(torch)), dict(vars(torch.cuda)), dict(vars(torch.Tensor))\n"
        "assert all(old[k] is new[k] for old, new in zip(before, after) for k in old)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_start_on_a_cpu_compiles_nothing() -> None:
    code = (
        "import torch.utils.cpp_extension as extension\n"
        "extension.load_inline = lambda *_, **__: exit('compiled')\n"
        "from nemo_bt import cpu\ncpu.install()\nimport megatron.core.inference.unified_memory\n"
        "assert extension.load_inline.__name__ == '<lambda>'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_readmes_tree_names_every_module() -> None:
    readme = (REPO / "README.md").read_text()
    tree = readme.split("\nnemo_bt/\n", 1)[1].split("```", 1)[0]
    modules = [path.relative_to(REPO / "nemo_bt") for path in (REPO / "nemo_bt").rglob("*.py")]
    named = {str(path) for path in modules if not path.name.startswith("__")}
    assert named == {line.split()[0] for line in tree.splitlines() if line.startswith("  ")}


def test_no_duration_is_measured_by_a_clock_that_may_jump() -> None:
    """The time of day is only shown, and compared with times of files."""
    clock = r"time\.time\(\)|datetime\.now\("
    product = [path for path in SOURCES if path.is_relative_to(REPO / "nemo_bt")]
    users = {str(path.relative_to(REPO)) for path in product if re.search(clock, path.read_text())}
    shown = {"nemo_bt/events.py", "nemo_bt/status.py", "nemo_bt/serving/protocol.py"}
    assert users <= {*shown, "nemo_bt/data/files.py"}
