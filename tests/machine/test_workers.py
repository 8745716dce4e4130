"""Two processes as `torchrun` starts them write the bytes of one, and none waits for a dead one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstack.compression.pipeline import compress
from bitstack.container.making import MADE
from bitstack.container.manifest import FOLDER
from bitstack.machine.workers import open_workers, shares

FEW = {"num_samples": 3, "seq_len": 24, "order_samples": 1}
QUICK = {**FEW, "blocks": 3, "search_sweeps": 1, "joint_passes": 1, "tune_steps": 2}
PAPER = {**FEW, "recipe": "paper", "blocks": 2, "rank": 3}
CODE = """
import sys, time, torch
torch.set_num_threads(1)
from bitstack.compression import matrix_pool as stacker
from bitstack.machine import workers
from bitstack.compression.pipeline import compress
from bitstack.errors import UserError
workers.SILENT = 4
after, fields = {after!r}, {fields!r}
decompose, done = stacker.decompose, []
def slow(*args, **kwargs):
    done.append(1)
    if after is not None and workers.open_workers.rank == 1 and len(done) > after:
        print("stuck", flush=True)
        time.sleep(100)
    return decompose(*args, **kwargs)
stacker.decompose = slow
import os
workers.open_workers.rank = int(os.environ["RANK"])
try:
    compress({model!r}, {output!r}, **fields)
except UserError as error:
    print(error)
    sys.exit(2)
print(len(done), "decomposed")
"""


def start(model: Path, output: Path, fields: dict[str, Any], after: int | None = None) -> list:
    """Two workers; with `after`, the second hangs at that many matrices and says `stuck`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = CODE.format(model=str(model), output=str(output), fields=fields, after=after)
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    options: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-c", code]
    return [
        subprocess.Popen(command, env=common | {"RANK": rank}, **options) for rank in ("0", "1")
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the one that says how long the run took."""
    files = [path for path in sorted(folder.rglob("*.*")) if path.name != MADE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("name", "fields"),
    [("llama-tied", QUICK), ("mixtral", QUICK), ("llama-gqa", PAPER)],
    ids=["tied", "experts", "paper"],
)
def test_two_workers_write_the_bytes_of_one(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path, name: str, fields: Any
) -> None:
    fields = fields | {"calibration": str(text_file)}
    both = start(pico_model(name), tmp_path / "two", fields)
    one = compress(pico_model(name), tmp_path / "one", **fields)
    said = [worker.communicate(timeout=120)[0] for worker in both]
    assert [worker.returncode for worker in both] == [0, 0], said
    counts = [int(text.split()[-2]) for text in said]
    assert all(count >= 3 for count in counts)
    files, expected = contents(tmp_path / "two"), contents(one)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []


def test_a_worker_that_dies_is_named_and_nothing_is_lost(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    fields = QUICK | {"calibration": str(text_file)}
    output = tmp_path / "out"
    first, second = start(pico_model("llama-tied"), output, fields, after=2)
    assert second.stdout.readline() == "stuck\n"
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    said = first.communicate(timeout=60)[0]
    assert first.returncode == 2
    assert time.monotonic() - killed < 45
    assert f"worker 1 (host {socket.gethostname()}, process {second.pid}) has died" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    kept = {p.name for p in (output / FOLDER).glob("*model.layers*.safetensors")}
    assert len(kept) >= 2
    # Alone, it goes on from what both have done.
    again = compress(pico_model("llama-tied"), output, **fields)
    assert contents(again) == contents(
        compress(pico_model("llama-tied"), tmp_path / "whole", **fields)
    )


def test_a_worker_that_fails_stops_the_others(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    workers = start(pico_model("llama-tied"), tmp_path / "out", QUICK)
    said = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [2, 2]
    assert "is not empty; name a new folder" in said[0]
    assert f"worker 0 (host {socket.gethostname()}, process {workers[0].pid}) failed" in said[1]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_alone_nothing_is_waited_for() -> None:
    alone = open_workers()
    assert (alone.rank, alone.count) == (0, 1)
    with alone.working():
        alone.wait("anything")
        alone.leave()


@given(
    st.lists(st.floats(0, 1e6), max_size=40),
    st.integers(1, 9),
)
def test_shares_are_runs_of_about_equal_cost(costs: list[float], count: int) -> None:
    owners = shares(costs, count)
    assert len(owners) == len(costs)
    assert owners == sorted(owners)
    assert all(0 <= owner < count for owner in owners)
    largest, mean = max(costs, default=0), sum(costs) / count
    for worker in range(count):
        own = sum(c for c, owner in zip(costs, owners, strict=True) if owner == worker)
        assert own <= mean + largest * 1.001 + 1e-6
