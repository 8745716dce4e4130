"""Several processes get one another's results in order; one that is alone or dies is noticed."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch.distributed

from bitstack.errors import UserError
from bitstack.machine.gathering import gathered, process_group

CODE = """
import os, sys
from bitstack.errors import UserError
from bitstack.machine.gathering import gathered, process_group
rank = int(os.environ["RANK"])
print(gathered([(rank, i, "x" * i) for i in range(rank + 1)]), flush=True)
if rank == 1:
    os._exit(1)
try:
    gathered([0])
except UserError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def no_group_yet() -> Iterator[None]:
    process_group.cache_clear()
    yield
    process_group.cache_clear()


def test_alone_the_list_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert process_group() is None
    assert gathered([1, "two"]) == [1, "two"]


def test_two_processes_and_the_death_of_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CODE], env=common | {"RANK": rank}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    first, second = (process.communicate(timeout=100)[0].splitlines() for process in both)
    assert first[0] == second[0] == str([(0, 0, ""), (1, 0, ""), (1, 1, "x")])
    (died,) = first[1:]
    assert died.startswith("processes: one of them has died (")
    assert died.endswith("); start them again")


def test_processes_that_cannot_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(backend: str) -> None:
        raise RuntimeError("no\nroute")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    with pytest.raises(UserError, match=r"they cannot meet \(no route\); start them with torchrun"):
        process_group()
