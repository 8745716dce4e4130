"""How many bytes this process may still take: the machine's available memory and its cgroups'.

Linux only. What is done about it is left to `memory`.
"""

from collections.abc import Iterator
from pathlib import Path

from bitstack.errors import UserError
from bitstack.machine.pages import process_bytes

_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes: the least of MemAvailable and what each cgroup (v2 or v1) above the process has left.

    Of a cgroup's usage the inactive file cache counts as free, as Kubernetes counts it. UserError
    where `root` has no /proc/meminfo.
    """
    return max(0, min([_available(root), *_cgroups(root)]))


def memory_room() -> int | None:
    """Bytes this process could hold resident at most, those it holds included; None where the
    system does not say."""
    try:
        return free_memory() + process_bytes()
    except UserError:
        return None


def _available(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    raise UserError(
        "/proc/meminfo: not there, or tells no MemAvailable; free memory is followed on Linux "
        "only: give a function that tells it (`free`), or call `resize` yourself"
    )


def _cgroups(root: Path) -> Iterator[int]:
    """Bytes left in every limited cgroup from this process's up."""
    for mount, path, names in _homes(root):
        folder = mount / path
        for level in [folder, *folder.parents]:
            if not level.is_relative_to(mount):
                break
            if (left := _left(level, *names)) is not None:
                yield left


def _homes(root: Path) -> Iterator[tuple[Path, str, tuple[str, str, str]]]:
    """Mount point, path below it and file names of this process's cgroups that count memory."""
    mounts = dict(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        names = _V1 if "memory" in controllers.split(",") else _V2
        if controllers and names is _V2:
            continue
        if (found := mounts.get(names)) is not None:
            mount, top = found
            yield root / mount.lstrip("/"), path.removeprefix(top.rstrip("/")).lstrip("/"), names


def _mounts(root: Path) -> Iterator[tuple[tuple[str, str, str], tuple[str, str]]]:
    """(mount point, path that is mounted there) of the cgroup file systems."""
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        top, mount = fields.split()[3:5]
        if kind.startswith("cgroup2 "):
            yield _V2, (mount, top)
        elif kind.startswith("cgroup ") and "memory" in kind.split()[-1].split(","):
            yield _V1, (mount, top)


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """None for a cgroup without a limit, or one that cannot be read."""
    try:
        most, used = (folder / limit).read_text().strip(), (folder / usage).read_text()
        if most == "max":
            return None
        stat = dict(line.split() for line in _lines(folder / "memory.stat"))
        return int(most) - int(used) + int(stat.get(cache, 0))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
