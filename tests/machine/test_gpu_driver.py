"""The driver says the same as torch, and what neither torch nor the machine has is no GPU."""

import ctypes

import pytest
import torch

from bitstack.machine import gpu_driver


def test_it_is_what_torch_finds() -> None:
    assert gpu_driver.has_gpu.__wrapped__() == torch.cuda.is_available()


def test_what_torch_was_built_for() -> None:
    built = "cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
    assert gpu_driver._says(built, "cuda")
    assert not gpu_driver._says(built, "hip")
    assert not gpu_driver._says("cuda = None\n", "cuda")


class Driver:
    """A driver that finds `devices`, or fails at first."""

    def __init__(self, devices: int, error: int = 0) -> None:
        self.devices, self.error = devices, error

    def cuInit(self, _: int) -> int:
        return self.error

    def cuDeviceGetCount(self, count: object) -> int:
        count._obj.value = self.devices  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(("driver", "devices"), [(Driver(2), 2), (Driver(2, error=100), 0)])
def test_devices(driver: Driver, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert gpu_driver._nvidia_devices() == devices


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_driver, "_DRIVER", "libno-such-driver.so.1")
    assert gpu_driver._nvidia_devices() == 0
