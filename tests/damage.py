"""Damages containers, or changes them as somebody would who renews the checksums, too."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack.container import checksums
from bitstack.container.manifest import MANIFEST, checksum_of


def make_pipe(path: Path) -> None:
    """Makes a named pipe, which blocks whoever opens it; skips the test where there are none."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


def change_manifest(folder: Path, change: Callable[[Any], Any], *, signed: bool = True) -> None:
    """Applies `change` to the manifest's JSON; what it returns, if anything, takes its place.

    Args:
        signed: Renew the manifest's own checksum, so that only other checks can find the change.
    """
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    changed = change(data)
    data = data if changed is None else changed
    if signed and isinstance(data, dict) and "checksum" in data:
        data["checksum"] = checksum_of(data)
    path.write_text(json.dumps(data))


def without_checksums(folder: Path, format: int = 6) -> Path:
    """Makes a container one of an older format, which had no checksums; returns `folder`."""

    def older(data: Any) -> None:
        data["format"] = format
        for field in ("checksum", "files"):
            data.pop(field, None)
        for shard in data["shards"]:
            shard.pop("checksums", None)

    change_manifest(folder, older)
    return folder


def change_file(folder: Path, name: str, content: bytes) -> None:
    """Writes a file and renews its checksum in the manifest."""
    (folder / name).write_bytes(content)

    def renew(data: Any) -> None:
        if name in data["files"]:
            data["files"][name] = checksums.of_bytes(content)

    change_manifest(folder, renew)


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def header_of(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns where the data of a safetensors file begin, and its header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return 8 + length, json.loads(data[8 : 8 + length])


def copied(container: Path, to: Path) -> Path:
    """Copies a container; returns the copy."""
    return shutil.copytree(container, to / "container")
