"""A model follows free memory: down at once, up after a while, and not to and fro."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pico
from bitstack import UserError, follow_memory, load
from bitstack.live.memory_follower import PATIENCE, SLACK, Follower
from bitstack.machine.free_memory import free_memory

Folder = Callable[..., Path]
FAR = 3600.0  # seconds between readings: the tests call `step`


@pytest.fixture(scope="module")
def container(stacked: Folder) -> Path:
    return stacked("llama-gqa", calibration="none")


class Machine:
    """A machine of `total` bytes on which only the model and `others` take memory."""

    def __init__(self, model: Any, total: int) -> None:
        self.resident, self.total, self.others = model.bitstack, total, 0

    def __call__(self) -> int:
        return self.total - self.others - self.resident.resident_bytes


@pytest.fixture
def follow(container: Path) -> Any:
    """`follow(keep_free, total, **options)`: model, machine, follower that is stepped by hand."""
    started: list[Follower] = []

    def start(keep_free: int, total: int, **options: Any) -> tuple[Any, Machine, Follower]:
        model = load(container)
        machine = Machine(model, total)
        started.append(follow_memory(model, keep_free, interval=FAR, free=machine, **options))
        return model, machine, started[-1]

    yield start
    for follower in started:
        follower.stop()


def sizes(container: Path) -> tuple[int, int]:
    budgets = load(container, level=1).bitstack.manifest.budgets
    return budgets.floor_bytes, budgets.total_bytes


def test_it_shrinks_at_once_and_keeps_free_what_was_asked(container: Path, follow: Any) -> None:
    floor, whole = sizes(container)
    model, machine, follower = follow(1000, whole + 1000)
    follower.step()
    assert model.bitstack.resident_bytes == whole
    machine.others = (whole - floor) // 2
    follower.step()
    assert floor < model.bitstack.resident_bytes < whole
    assert machine() >= 1000


def test_it_never_goes_below_the_floor(container: Path, follow: Any) -> None:
    floor, whole = sizes(container)
    model, machine, follower = follow(1000, whole + 1000)
    machine.others = 10 * whole
    for _ in range(3):
        follower.step()
    assert model.bitstack.resident_bytes == floor
    assert follower.error is None


def test_it_grows_when_there_was_room_for_some_time(container: Path, follow: Any) -> None:
    floor, whole = sizes(container)
    model, machine, follower = follow(1000, 2 * whole)
    machine.others = 2 * whole
    follower.step()
    assert model.bitstack.resident_bytes == floor
    machine.others = 0
    for _ in range(PATIENCE - 1):
        follower.step()
        assert model.bitstack.resident_bytes == floor
    machine.others = 2 * whole  # the room is gone again: counting starts anew
    follower.step()
    machine.others = 0
    for _ in range(PATIENCE - 1):
        follower.step()
        assert model.bitstack.resident_bytes == floor
    follower.step()
    assert model.bitstack.resident_bytes == whole


def test_at_most(container: Path, follow: Any) -> None:
    _, whole = sizes(container)
    model, _, follower = follow(0, 5 * whole, at_most="5bpw")
    for _ in range(PATIENCE):
        follower.step()
        assert 4 < model.bitstack.bits_per_weight <= 5


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_small_changes_do_nothing(container: Path, data: st.DataObject) -> None:
    """Once it has grown, what others take may move by a slack without a single resize."""
    model = load(container, level=1)
    floor, whole = sizes(container)
    slack = (whole - floor) // SLACK
    machine = Machine(model, data.draw(st.integers(floor + slack, 2 * whole)))
    with follow_memory(model, 0, interval=FAR, free=machine) as follower:
        for _ in range(2 * PATIENCE):
            follower.step()
        grown = list(model.bitstack.levels)
        for machine.others in data.draw(st.lists(st.integers(0, slack), min_size=8)):
            follower.step()
            assert model.bitstack.levels == grown


def test_a_container_that_is_gone(
    container: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model runs on; it is said once, and tried again."""
    folder = shutil.copytree(container, tmp_path / "container")
    model = load(folder, level=1)
    machine = Machine(model, 5 * sizes(container)[1])
    folder.rename(tmp_path / "elsewhere")
    with follow_memory(model, 0, interval=FAR, free=machine) as follower:
        with caplog.at_level(logging.WARNING, logger="bitstack.live.memory_follower"):
            for _ in range(PATIENCE + 2):
                follower.step()
        assert follower.error is not None
        assert "the model runs on as it was" in follower.error
        assert len(caplog.records) == 1
        assert model.generate(pico_ids(), max_new_tokens=2).shape[1] > 4
        (tmp_path / "elsewhere").rename(folder)
        follower.step()
        assert follower.error is None
    assert model.bitstack.resident_bytes == sizes(container)[1]


def pico_ids() -> Any:
    return pico.tokenizer()("The river", return_tensors="pt")["input_ids"]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_the_thread(container: Path) -> None:
    model = load(container)
    floor, whole = sizes(container)
    machine = Machine(model, whole)
    with follow_memory(model, 0, interval=0.01, free=machine) as follower:
        machine.others = whole
        wait_for(lambda: model.bitstack.resident_bytes == floor)
        machine.others = -whole
        wait_for(lambda: model.bitstack.resident_bytes == whole)
        assert follower._thread.is_alive()
        assert follower._thread.daemon
    assert not follower._thread.is_alive()
    machine.others = whole
    time.sleep(0.05)
    assert model.bitstack.resident_bytes == whole
    follower.stop()  # again: nothing happens


def test_a_reading_that_fails_ends_nothing(
    container: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(container)
    machine = Machine(model, sizes(container)[1])
    readings = 0

    def free() -> int:
        nonlocal readings
        readings += 1
        if readings in (2, 3):
            raise OSError("no reading")
        return machine()

    with follow_memory(model, 0, interval=0.01, free=free):
        machine.others = machine.total
        wait_for(lambda: model.bitstack.resident_bytes == sizes(container)[0])
    assert "no reading" in caplog.text


def test_a_model_is_followed_once(container: Path) -> None:
    model = load(container)
    machine = Machine(model, 10**9)
    first = follow_memory(model, 0, interval=0.01, free=machine)
    with follow_memory(model, "1MiB", interval=0.01, free=machine) as second:
        wait_for(lambda: not first._thread.is_alive())
        assert second._thread.is_alive()


def test_stopping_from_within_a_forward(container: Path) -> None:
    """The thread may be waiting for that very forward."""
    model = load(container)
    machine = Machine(model, sizes(container)[1])
    follower = follow_memory(model, 0, interval=0.01, free=machine)

    def stop(*_: Any) -> None:
        machine.others = machine.total
        time.sleep(0.1)
        follower.stop()

    model.model.layers[0].register_forward_hook(stop)
    thread = threading.Thread(target=model, args=(pico_ids(),), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    wait_for(lambda: not follower._thread.is_alive())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_free": "10%"}, "keep_free 10%: must be bytes"),
        ({"keep_free": "some"}, "budget 'some' is not understood"),
        ({"interval": 0}, "interval is 0 s; it must be above 0"),
        ({"at_most": 1000}, "below the floor"),
    ],
)
def test_what_cannot_be_followed(container: Path, options: dict[str, Any], message: str) -> None:
    before = threading.active_count()
    with pytest.raises(UserError, match=message):
        follow_memory(load(container), **options)
    assert threading.active_count() == before
    with pytest.raises(UserError, match="was not loaded by"):
        follow_memory(pico.build("llama-gqa"))


def test_this_machine_is_read(container: Path) -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("free memory is read on Linux only")
    assert 0 < free_memory() < 2**50
    with follow_memory(load(container), 0, interval=0.01) as follower:
        time.sleep(0.05)
        assert follower.error is None
