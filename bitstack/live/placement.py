"""Where a loaded model lies and in which dtype it computes: devices, device maps, dtypes.

Does not load anything; see `live.loading`.
"""

from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory, get_max_memory

from bitstack.errors import UserError
from bitstack.live.arguments import check_device_map
from bitstack.machine.device import pick_device
from bitstack.machine.json_file import reason_of

DeviceMap = str | int | torch.device | dict[str, int | str | torch.device]
_SHARED = ("auto", "balanced", "balanced_low_0", "sequential")  # maps that are computed
_DTYPES = ("bfloat16", "float16", "float32")


def placement(
    device: str | torch.device, device_map: DeviceMap | None
) -> tuple[str | torch.device, DeviceMap | None]:
    """Returns the device to load on, and a map to spread the model over from there, or None.

    Args:
        device: As in `bitstack.load`.
        device_map: As in `from_pretrained`; a map of one device is that device.

    Raises:
        UserError: Both are given, or a device is unknown, not here, or holds no data.
    """
    if device_map is None:
        return check_device(device), None
    if str(device) != "cpu":
        raise UserError(f"device {device} and device_map {device_map}: give one of them, not both")
    if device_map in _SHARED:
        return "cpu", device_map
    if isinstance(device_map, int):
        device_map = f"cuda:{device_map}"
    if not isinstance(device_map, dict):
        return check_device(device_map), None
    check_device_map(device_map)
    places = {check_device(_named(place)) for place in device_map.values()}
    return (places.pop(), None) if len(places) == 1 else ("cpu", device_map)


def check_device(device: str | torch.device) -> str | torch.device:
    """Returns `device`, or the best one here for "auto".

    Raises UserError for a device that is unknown, not on this machine, or holds no data.
    """
    if device == "auto":
        return pick_device("auto")
    try:
        holds_data = not torch.empty(1, device=device).is_meta
        reason = "it holds no data"
    except (RuntimeError, AssertionError, TypeError) as error:
        holds_data, reason = False, str(error).splitlines()[0]
    if not holds_data:
        raise UserError(
            f"device {device}: cannot be used ({reason}); use auto, cpu, or cuda if present"
        )
    return device


def check_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Returns a dtype of activations; None for that of the container.

    Raises:
        UserError: It is none that a model can compute in.
    """
    if dtype in (None, "auto"):
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise UserError(f"dtype {dtype}: cannot be used; allowed: auto, {', '.join(_DTYPES)}")
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def spread_out(model: Any, device_map: DeviceMap) -> None:
    """Moves the parts of a model that is on the CPU to the devices of a map.

    Raises:
        UserError: A part would stay on the CPU beside other devices, or has no place.
    """
    if not isinstance(device_map, dict):
        device_map = _computed(model, str(device_map))
    check_device_map(device_map)
    places = {_named(place) for place in device_map.values()}
    if len(places) == 1:
        model.to(places.pop())
        return
    try:
        dispatch_model(model, device_map=device_map, skip_keys=model._skip_keys_device_placement)
    except ValueError as error:
        raise UserError(f"device_map: {reason_of(error)}") from None


def _computed(model: Any, kind: str) -> dict[str, Any]:
    """Returns the device of every part, as accelerate chooses them by the memory there is."""
    whole = model._no_split_modules
    whole = None if whole is None else list(whole)
    if kind == "sequential":
        memory = get_max_memory()
    else:
        low = kind == "balanced_low_0"
        memory = get_balanced_memory(model, no_split_module_classes=whole, low_zero=low)
    chosen: dict[str, Any] = infer_auto_device_map(model, memory, no_split_module_classes=whole)
    return chosen


def _named(place: Any) -> str:
    """A device of a map by its name; numbers are GPUs."""
    return f"cuda:{place}" if isinstance(place, int) else str(place)
