"""Tells whether torch would find a GPU here, without importing torch, which takes a second.

Asks the driver, and the file in which torch says what it was built for. Does not choose a device;
see `machine.device`.
"""

import ctypes
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_AMD = Path("/dev/kfd")
_BUILT_FOR = r"^{}\b.*=\s*['\"]"  # in torch/version.py: a version, or None


@cache
def has_gpu() -> bool:
    """Returns whether torch is built for a kind of GPU that this machine has."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    built = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    return (_says(built, "cuda") and _nvidia_devices() > 0) or (
        _says(built, "hip") and _AMD.exists()
    )


def _says(built: str, kind: str) -> bool:
    return re.search(_BUILT_FOR.format(kind), built, re.MULTILINE) is not None


def _nvidia_devices() -> int:
    """The devices that NVIDIA's driver gives this process; 0 without a driver."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(_DRIVER)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value
