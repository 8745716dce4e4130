"""Tells how many bytes this process may still take, by the machine and by its cgroups. Linux only.

Does not make a model smaller; see `live.memory_follower`.
"""

from collections.abc import Iterator
from pathlib import Path

from bitstack.errors import UserError
from bitstack.machine.pages import process_bytes

# Files of a cgroup: its limit and its usage; and the field of memory.stat for cached files.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory(root: Path = Path("/")) -> int:
    """Returns the free bytes: the least of MemAvailable and what each cgroup has left.

    Counts the cgroups (v2 or v1) of this process and all above them. Their inactive file cache
    counts as free, as Kubernetes counts it.

    Args:
        root: The folder that stands for `/`; tests give another one.

    Raises:
        UserError: `root` has no /proc/meminfo, or it does not tell MemAvailable.
    """
    return max(0, min([_available(root), *_bytes_left_in_cgroups(root)]))


def memory_room() -> int | None:
    """Returns the bytes this process could hold at most, those it holds now included.

    None where the system does not say.
    """
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


def _bytes_left_in_cgroups(root: Path) -> Iterator[int]:
    """Bytes left in every limited cgroup, from that of this process up to the root."""
    for mount, path, names in _own_cgroups(root):
        folder = mount / path
        for level in [folder, *folder.parents]:
            if not level.is_relative_to(mount):
                break
            if (left := _bytes_left(level, *names)) is not None:
                yield left


def _own_cgroups(root: Path) -> Iterator[tuple[Path, str, tuple[str, str, str]]]:
    """Mount point, path below it and file names of this process's cgroups that count memory."""
    mounts = dict(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        names = _V1 if "memory" in controllers.split(",") else _V2
        if controllers and names is _V2:
            continue
        if (place := mounts.get(names)) is not None:
            mount, top = place
            yield root / mount.lstrip("/"), path.removeprefix(top.rstrip("/")).lstrip("/"), names


def _mounts(root: Path) -> Iterator[tuple[tuple[str, str, str], tuple[str, str]]]:
    """(mount point, path that is mounted there) of the cgroup file systems, by their file names."""
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        top, mount = fields.split()[3:5]
        if kind.startswith("cgroup2 "):
            yield _V2, (mount, top)
        elif kind.startswith("cgroup ") and "memory" in kind.split()[-1].split(","):
            yield _V1, (mount, top)


def _bytes_left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Limit less usage of one cgroup; None where it has no limit or cannot be read."""
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
