"""Free memory is the least of what the machine and every cgroup above the process have left."""

from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.machine import free_memory as module
from bitstack.machine.free_memory import free_memory, memory_room


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}
V2 = {
    "proc/self/cgroup": "0::/pod/app\n",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
    "sys/fs/cgroup/pod/memory.max": "5000000\n",
    "sys/fs/cgroup/pod/memory.current": "3000000\n",
    "sys/fs/cgroup/pod/memory.stat": "anon 10\ninactive_file 400000\n",
    "sys/fs/cgroup/pod/app/memory.max": "max\n",
    "sys/fs/cgroup/pod/app/memory.current": "3000000\n",
}
V1 = {
    "proc/self/cgroup": "9:cpu,cpuacct:/x\n5:memory:/docker/abc\n0::/\n",
    # A container's own cgroup, mounted as the root of what it sees.
    "proc/self/mountinfo": (
        "30 23 0:26 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    ),
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000\n",
    "sys/fs/cgroup/memory/memory.stat": "cache 5\ntotal_inactive_file 100000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MEMINFO, 8_192_000),
        (MEMINFO | V2, 2_400_000),  # of the parent, which is the one with a limit
        (MEMINFO | V2 | {"sys/fs/cgroup/pod/app/memory.max": "3000001"}, 1),
        (MEMINFO | V2 | {"sys/fs/cgroup/pod/app/memory.max": "1000"}, 0),  # over the limit
        (MEMINFO | V2 | {"sys/fs/cgroup/pod/memory.max": "9" * 18}, 8_192_000),
        (MEMINFO | V2 | {"sys/fs/cgroup/pod/memory.max": "?"}, 8_192_000),
        (MEMINFO | V1, 600_000),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert free_memory(tree(tmp_path, files)) == expected


def test_no_free_memory_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/proc/meminfo: not there"):
        free_memory(tmp_path)
    with pytest.raises(UserError, match="/proc/meminfo: not there"):
        free_memory(tree(tmp_path, {"proc/meminfo": "MemTotal: 5 kB\n"}))


def test_the_room_includes_what_the_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda: 300)
    monkeypatch.setattr(module, "process_bytes", lambda: 70)
    assert memory_room() == 370


@pytest.mark.parametrize("reading", ["free_memory", "process_bytes"])
def test_no_room_is_known_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    def missing() -> int:
        raise UserError("/proc: not there")

    monkeypatch.setattr(module, "free_memory", lambda: 300)
    monkeypatch.setattr(module, "process_bytes", lambda: 70)
    monkeypatch.setattr(module, reading, missing)
    assert memory_room() is None
