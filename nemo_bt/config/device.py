"""What a run runs on, and whether that has what the settings ask of it. torch is imported inside functions."""

from __future__ import annotations

from importlib.util import find_spec

from pydantic import TypeAdapter, ValidationError

from nemo_bt.config.fp8 import check_gpu
from nemo_bt.config.job import DeviceSettings
from nemo_bt.config.messages import explain
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError


def device_settings(accelerator: str, precision: str) -> DeviceSettings:
    """Check what a program asks for.

    Raises:
        UserError: one of the two is not among the values of its setting.
    """
    try:
        return TypeAdapter(DeviceSettings).validate_python({"accelerator": accelerator, "precision": precision})
    except ValidationError as error:
        raise UserError(explain(error, DeviceSettings)) from error


def runs_on_gpu(trainer: DeviceSettings) -> bool:
    """Tell whether ranks have a GPU each.

    Raises:
        UserError: there are fewer than asked for.
    """
    import torch

    accelerator = trainer.accelerator
    devices = trainer.devices
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return False
    if torch.cuda.device_count() < devices:
        raise UserError(
            f"trainer.devices={devices} with trainer.accelerator={accelerator}: this machine has "
            f"{torch.cuda.device_count()} GPUs. Set trainer.devices to that, or trainer.accelerator=cpu."
        )
    return True


def check_device(settings: Settings, on_gpu: bool) -> None:
    """Check that the device can do what is asked of it.

    Raises:
        UserError: it cannot.
    """
    model = settings.model
    if not on_gpu:
        for name in ("optimizer_cpu_offload", "use_precision_aware_optimizer"):
            if getattr(model.optim, name):
                raise UserError(f"model.optim.{name}=true needs a GPU, and this run is on the CPU: leave it out.")
        if model.fp8:
            raise UserError(f"model.fp8={model.fp8} needs a GPU, and this run is on the CPU: set model.fp8=null.")
        return
    if model.fp8 and not find_spec("transformer_engine"):
        raise UserError(f"model.fp8={model.fp8} needs Transformer Engine: run make gpu-setup, or set model.fp8=null.")
    if model.fp8:
        import torch

        check_gpu(settings, torch.cuda.get_device_capability(), str(torch.version.cuda))


def has_transformer_engine() -> bool:
    """Tell whether layers are built from it: it is installed and there is a GPU to run it."""
    import torch

    if not torch.cuda.is_available():
        return False
    from megatron.core.models.gpt.gpt_layer_specs import HAVE_TE

    return bool(HAVE_TE)
