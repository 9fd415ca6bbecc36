"""A training run, unchanged, on the device of shapes alone: as one rank, for a few steps, into a record.

It replaces torch.cuda in this process, which has to be a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nemo_bt.config.load import load_settings
from nemo_bt.gpu_setup import TRANSFORMER_ENGINE
from nemo_bt.phantom.build import load
from nemo_bt.phantom.spec import Spec

_VERSIONS = ("torch", "nemo_toolkit", "megatron-core")


def run(spec: Spec, more_callbacks: Callable[[], list[Any]] = list) -> Any:
    """Trace a rank, and give its `Record`; what ends the run early is told in it.

    Args:
        more_callbacks: makes callbacks of Lightning for the run, when it may import torch.
    """
    load(Path(spec.library))

    from nemo_bt.phantom import compiled, cuda, messages, places, transformer_engine
    from nemo_bt.phantom.ledger import Ledger
    from nemo_bt.phantom.record import Failure, Record

    settings = load_settings("settings", config_dir=spec.settings)
    ledger = Ledger()
    mode, compute, read = _numbers(ledger) if spec.numbers else _shapes(ledger)
    messages.join_as(spec.rank, settings.world_size, settings.trainer.devices, sends=spec.numbers)
    cuda.install(spec.gpu, ledger, settings.trainer.devices, read)
    compiled.install(ledger)
    transformer_engine.install(Path(spec.transformer_engine), ledger, compute)

    from nemo_bt.launching.signals import StopRequest
    from nemo_bt.observability.terminal import Terminal
    from nemo_bt.training.checks import check_settings
    from nemo_bt.training.nemo_import import import_nemo
    from nemo_bt.training.train import train

    import_nemo(on_gpu=True)

    from nemo_bt.phantom import megatron
    from nemo_bt.phantom.numbers.seen import Seen
    from nemo_bt.phantom.watch import Done, Watch

    megatron.install(ledger)
    watch = Watch(ledger, spec.steps)
    seen = [Seen(Path(spec.record).parent)] if spec.numbers else []
    request = StopRequest(limit_s=None, ends_on_sigterm=False)
    failure = None
    try:
        with mode:
            pretrained = check_settings(settings) if spec.numbers else None
            callbacks = [*more_callbacks(), *seen, watch]
            train(settings, pretrained, Terminal(None), spec.rank, callbacks, request=request)
    except Done:
        pass
    except Exception as error:  # noqa: BLE001 - whatever ends a run is what the trace is for
        failure = Failure(type(error).__name__, str(error), ledger.phase, places.places_of(error))
        watch.sections.append(ledger.close("failed", {}))
    versions = {name: version(name) for name in _VERSIONS} | {"transformer-engine": TRANSFORMER_ENGINE}
    return Record(spec.rank, settings.world_size, versions, tuple(watch.sections), failure)


def _shapes(ledger: Any) -> tuple[Any, Any, Any]:
    """Give the mode, what computes a kernel, and what reads a tensor: of a device of shapes alone."""
    from nemo_bt.phantom import cuda, mode, transformer_engine

    return mode.PhantomMode(ledger), transformer_engine.only_shapes, cuda.ones


def _numbers(ledger: Any) -> tuple[Any, Any, Any]:
    """Give the same of a device that computes."""
    from nemo_bt.phantom.numbers import kernels, memory, mode

    values = memory.Memory()
    return mode.NumbersMode(ledger, values), kernels.kernels(values), values.of
