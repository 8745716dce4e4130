"""Loads a container in a forked child with limits, and tells how that ended.

The child opens the model as the commands do, with its tokenizer, and runs one forward. Fork, after
everything is imported, makes an attempt take a tenth of a second. Does not damage containers; see
`attack.faults` and `attack.hostile`.
"""

import hashlib
import json
import os
import resource
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU_SECONDS = 2  # of the attempt itself; more is a hang
WALL_SECONDS = 30  # a child that waits is a hang, too; other work may slow it down
SPARE_BYTES = 2 << 30  # address space beyond what the process has when it forks
TEXT = "The river was low that summer."


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended."""

    kind: str  # opened, refused, traceback, crash or hang
    message: str = ""
    digest: str = ""  # of token ids and logits
    added_bytes: int = 0  # most resident memory beyond that before the attempt


def attempt(folder: Path) -> Outcome:
    """Opens the container and runs it in a child; returns how that ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(folder, write)
    os.close(write)
    said, late = _listen(read)
    os.close(read)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Outcome("hang", "no end within the time")
    if not said:
        return Outcome("crash", f"wait status {status}")
    return Outcome(**json.loads(said))


def _listen(read: int) -> tuple[bytes, bool]:
    """Returns what the child wrote, and whether it took too long."""
    said, end = b"", time.monotonic() + WALL_SECONDS
    while True:
        ready, _, _ = select.select([read], [], [], max(0, end - time.monotonic()))
        if not ready:
            return said, True
        piece = os.read(read, 1 << 16)
        if not piece:
            return said, False
        said += piece


def _child(folder: Path, write: int) -> None:
    """Never returns."""
    try:
        _limit()
        before = _resident()
        outcome = _open(folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        outcome["added_bytes"] = max(0, peak - before)
        os.write(write, json.dumps(outcome).encode())
    finally:
        os._exit(0)


def _open(folder: Path) -> dict[str, Any]:
    import torch

    from bitstack import UserError
    from bitstack.live.opening import open_model

    try:
        opened = open_model(folder, device="cpu")
        ids = opened.tokenizer(TEXT, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = opened.model(ids).logits
        content = ids.numpy().tobytes() + logits.float().numpy().tobytes()
        return {"kind": "opened", "digest": hashlib.sha256(content).hexdigest()}
    except UserError as error:
        text = str(error)
        return {"kind": "traceback" if "\n" in text else "refused", "message": text[:500]}
    except BaseException as error:
        return {"kind": "traceback", "message": f"{type(error).__name__}: {error}"[:500]}


def _limit() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + CPU_SECONDS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * os.sysconf("SC_PAGE_SIZE") + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
